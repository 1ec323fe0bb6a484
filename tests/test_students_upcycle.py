"""Students with experts that are made out of a dense model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as hf
from pydantic import ValidationError

from understudy.data.errors import BadInput
from understudy.students.batches import render
from understudy.students.config import Hub, StudentRecipe, Upcycle
from understudy.students.hub import Pretrained, student_model, student_tokenizer
from understudy.students.trainer import train_student
from understudy.students.upcycle import upcycled, upcycled_shape
from understudy.students.weights import TrainingRows

from .test_students_hub import LABELS, by_bytes, family, quiet, rows


@pytest.fixture(scope="module")
def tokenizer() -> hf.PreTrainedTokenizerFast:
    return by_bytes()


def init(**given: object) -> Upcycle:
    return Upcycle.model_validate({"kind": "upcycle", "model": "m", "experts": 4, **given})


def student(**train: object) -> StudentRecipe:
    fields = {"epochs": 6, "batch": 8, "learning_rate": 3e-3, "max_length": 64, **train}
    return StudentRecipe.model_validate({"init": init().model_dump(), "train": fields, "control": True})


def logits(model, tokenizer) -> torch.Tensor:
    prompts = tokenizer(render(tokenizer, [row.input for row in rows(6)]), return_tensors="pt", padding=True)
    with torch.inference_mode():
        return model.eval()(**prompts).logits[prompts["attention_mask"].bool()]


@pytest.mark.parametrize("active", [1, 2, 3])
@pytest.mark.parametrize("tied", [True, False])
def test_experts_begin_by_saying_what_the_dense_model_says(tokenizer, active, tied):
    source = Pretrained(family("qwen3", tokenizer, tie_word_embeddings=tied), tokenizer, "m")
    taken = student_tokenizer(source, LABELS)
    dense = student_model(source, taken, LABELS)

    model = upcycled(dense, init(active=active), 0, "m")

    said, was = logits(model, taken), logits(dense, taken)
    assert (said - was).abs().max() < 1e-5
    assert was.abs().max() > 0.01
    assert model.config.label_token_ids == dense.config.label_token_ids
    assert model.generation_config.eos_token_id == dense.generation_config.eos_token_id


def test_the_share_that_is_drawn_anew_is_another_in_each_expert_and_keeps_mean_and_deviation(tokenizer):
    dense = family("qwen3", tokenizer)
    with torch.no_grad():
        for layer in dense.model.layers:
            layer.mlp.up_proj.weight.add_(0.5)

    model = upcycled(dense, init(redraw=0.25), 0, "m")

    neurons = dense.config.intermediate_size
    for layer, whole in zip(model.model.layers, dense.model.layers, strict=True):
        changed = []
        for gate_up, down in zip(layer.mlp.experts.gate_up_proj, layer.mlp.experts.down_proj, strict=True):
            gate, up = gate_up[:neurons], gate_up[neurons:]
            anew = (gate != whole.mlp.gate_proj.weight).all(1)
            assert int(anew.sum()) == neurons // 4
            assert torch.equal(anew, (up != whole.mlp.up_proj.weight).any(1))
            assert torch.equal(anew, (down != whole.mlp.down_proj.weight).any(0))
            assert up[anew].mean().item() == pytest.approx(0.5, abs=0.01)
            assert up[anew].std().item() == pytest.approx(whole.mlp.up_proj.weight.std().item(), rel=0.15)
            changed.append(anew)
        assert not torch.equal(changed[0], changed[1])


def test_its_size_is_known_before_it_is_there(tokenizer):
    dense = family("qwen3", tokenizer)

    assert upcycled_shape(dense, init(), "m").num_parameters() == upcycled(dense, init(), 0, "m").num_parameters()


def test_equal_seeds_draw_equal_experts_and_others_do_not(tokenizer):
    dense = family("qwen3", tokenizer)

    first, again, other = (upcycled(dense, init(redraw=0.5), seed, "m") for seed in (0, 0, 1))

    weight = "model.layers.1.mlp.experts.down_proj"
    assert torch.equal(first.state_dict()[weight], again.state_dict()[weight])
    assert not torch.equal(first.state_dict()[weight], other.state_dict()[weight])


@pytest.mark.slow
def test_an_upcycled_student_is_trained_kept_and_loaded_like_any_other(tokenizer, tmp_path: Path):
    source = Pretrained(family("qwen3", tokenizer), tokenizer, "m")
    some = TrainingRows(lambda: iter(rows(96, soft=True)), lambda: iter(rows(24, start=200)), LABELS)

    result = train_student(student(), some, tmp_path / "seed-0", 0, quiet, lambda: source)

    assert result["validation_agreement"] == 100
    model = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "seed-0")
    loaded = hf.AutoTokenizer.from_pretrained(tmp_path / "seed-0")
    assert (model.config.model_type, model.config.output_router_logits) == ("qwen3_moe", False)
    prompts = loaded(render(loaded, [row.input for row in rows(4, start=300)]), return_tensors="pt", padding=True)
    said = model.generate(**prompts, max_new_tokens=4, do_sample=False)[:, prompts["input_ids"].shape[1] :]
    assert [loaded.decode(ids, skip_special_tokens=True) for ids in said] == [row.output for row in rows(4, start=300)]


def test_it_learns_gently_and_its_control_is_the_dense_model():
    upcycle = StudentRecipe.model_validate({"init": init().model_dump(), "control": True})

    assert (upcycle.train.learning_rate, upcycle.train.dropout, upcycle.train.noise) == (1e-4, 0, 0)
    assert upcycle.counterpart() == StudentRecipe(init=Hub(kind="hub", model="m"), train=upcycle.train)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3_moe"])
def test_other_families_are_refused(tokenizer, name):
    with pytest.raises(BadInput) as refused:
        upcycled_shape(family(name, tokenizer), init(), "init.model = m")

    assert str(refused.value) == (
        f"init.model = m: is a '{name}' model, and experts are made from Qwen3 models; begin with one, or use init: "
        "{kind: hub}"
    )


def test_a_model_that_looks_back_a_window_only_is_refused(tokenizer):
    dense = family("qwen3", tokenizer, use_sliding_window=True, sliding_window=8, max_window_layers=1)

    with pytest.raises(BadInput) as refused:
        upcycled(dense, init(), 0, "init.model = m")

    assert str(refused.value) == (
        "init.model = m: some of its layers look back a window only, which no layer with experts does; use init: "
        "{kind: hub}"
    )


def test_more_active_experts_than_there_are_is_refused():
    with pytest.raises(ValidationError) as refused:
        init(active=6)

    assert "is 6, and a layer has 4 experts; ask for fewer" in str(refused.value)
