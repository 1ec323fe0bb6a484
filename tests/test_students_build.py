from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from understudy.data.errors import BadInput
from understudy.students.build import Shape, build_dense, shape_for, vocabulary_for
from understudy.students.config import Dense, count
from understudy.students.tokenizer import label_tokens, train_tokenizer

TEXTS = ["where is my parcel", "I want my money back", "the app crashes", "money back for the parcel"] * 5


@pytest.mark.parametrize("size", ["0.3M", "0.6M", "1M", "2M", "5M", "20M", "100M"])
def test_a_size_buys_the_widest_shape_within_it(size):
    dense = Dense(parameters=size)
    vocabulary = vocabulary_for(dense)

    shape = shape_for(count(size), vocabulary)

    assert shape.parameters(vocabulary) <= count(size)
    assert shape.parameters(vocabulary) > 0.55 * count(size)
    assert shape.head % 32 == 0


def test_depth_and_neurons_may_be_asked_for():
    shape = shape_for(3_900_000, 3086, layers=4, times=6)

    assert (shape.layers, shape.intermediate, shape.hidden) == (4, 6 * 192, 192)
    assert shape.parameters(3086) <= 3_900_000


def test_layers_that_do_not_fit_are_refused():
    with pytest.raises(BadInput) as refused:
        shape_for(500_000, 4096, layers=40)

    assert str(refused.value) == (
        "init.parameters = 500,000 cannot hold a vocabulary of 4,096 tokens and 40 layers; "
        "raise init.parameters, or lower init.vocabulary"
    )


def test_the_count_of_a_shape_is_the_count_of_its_model():
    tokenizer = train_tokenizer(TEXTS, 512, ("a", "b"), fold_case=True)
    model = build_dense(Dense(parameters="0.5M"), tokenizer, ("a", "b"), 0)
    config = model.config
    shape = Shape(config.hidden_size, config.num_hidden_layers, config.head_dim, config.intermediate_size)

    assert model.num_parameters() == shape.parameters(len(tokenizer))


def test_a_vocabulary_too_large_for_the_size_is_refused():
    with pytest.raises(BadInput) as refused:
        shape_for(1_000_000, 65536)

    assert str(refused.value) == (
        "init.parameters = 1,000,000 cannot hold a vocabulary of 65,536 tokens; "
        "raise init.parameters, or lower init.vocabulary"
    )


def test_equal_seeds_build_equal_weights_and_others_do_not():
    tokenizer = train_tokenizer(TEXTS, 512, ("a", "b"), fold_case=True)
    first, again, other = (build_dense(Dense(parameters="0.5M"), tokenizer, ("a", "b"), s) for s in (0, 0, 1))

    weight = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(first.state_dict()[weight], again.state_dict()[weight])
    assert not torch.equal(first.state_dict()[weight], other.state_dict()[weight])


def test_a_student_folder_loads_without_our_code_and_says_its_label_tokens(tmp_path):
    labels = ("refund", "app crash")
    tokenizer = train_tokenizer(TEXTS, 512, labels, fold_case=True)
    build_dense(Dense(parameters="0.5M"), tokenizer, labels, 0).save_pretrained(tmp_path)

    model = AutoModelForCausalLM.from_pretrained(tmp_path, use_safetensors=True)

    assert model.config.label_token_ids == dict(zip(labels, label_tokens(tokenizer, labels), strict=True))
    assert model.config.tie_word_embeddings
