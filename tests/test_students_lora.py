"""Students whose adapters learn in the place of their weights."""

from __future__ import annotations

import builtins
from pathlib import Path

import pytest
import torch
import transformers as hf

from understudy.data.errors import BadInput
from understudy.data.rows import Example, Message, Prompt
from understudy.data.teacher import Sampling
from understudy.students.batches import render
from understudy.students.config import Lora, StudentRecipe
from understudy.students.hub import Pretrained, student_model, student_tokenizer
from understudy.students.lora import adapted, adapted_size
from understudy.students.tokenizer import label_tokens
from understudy.students.trainer import train_student
from understudy.students.weights import TrainingRows
from understudy.teachers.local import LocalModel

from .test_students_hub import FAMILIES, LABELS, by_bytes, family, quiet, rows, student, taught
from .test_students_trainer import Killed

ADAPTERS = {"rank": 8, "alpha": 16}


@pytest.fixture(scope="module")
def tokenizer() -> hf.PreTrainedTokenizerFast:
    return by_bytes()


def begun(name: str, tokenizer, **changes) -> tuple[hf.PreTrainedModel, list[int]]:
    source = Pretrained(family(name, tokenizer, **changes), tokenizer, "m")
    taken = student_tokenizer(source, LABELS)
    return student_model(source, taken, LABELS), label_tokens(taken, LABELS)


@pytest.mark.parametrize("name", FAMILIES)
def test_in_every_family_adapters_and_the_rows_of_labels_learn_and_end_in_the_model(name, tokenizer, tmp_path):
    model, tokens = begun(name, tokenizer)
    ids = torch.tensor([[*tokens, 5, 6, 7]])
    before = {name: weight.clone() for name, weight in model.named_parameters()}

    learning = adapted(model, Lora(**ADAPTERS), tokens)
    learnt = [weight for weight in learning.parameters() if weight.requires_grad]
    for weight in learnt:
        torch.nn.init.normal_(weight, std=0.05)
    said = learning.eval()(input_ids=ids).logits
    learning.merge_and_unload()

    assert sum(weight.numel() for weight in learnt) < model.num_parameters() / 2
    assert torch.allclose(model(input_ids=ids).logits, said, atol=1e-5)
    assert {name for name, _ in model.named_parameters()} == before.keys()
    read, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    for table in (read, head):
        name = next(name for name, weight in model.named_parameters() if weight is table)
        changed = (table != before[name]).any(1).nonzero().flatten().tolist()
        assert changed == sorted(tokens), "the rows of labels, and no others"
    model.save_pretrained(tmp_path)
    loaded = hf.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.allclose(loaded(input_ids=ids).logits, said, atol=1e-5)


def test_named_layers_alone_have_adapters(tokenizer):
    model, _ = begun("llama", tokenizer)

    learning = adapted(model, Lora(targets=["q_proj", "mlp.up_proj"]), ())

    names = [name for name, weight in learning.named_parameters() if weight.requires_grad]
    assert {name.split(".")[-4] for name in names} == {"q_proj", "up_proj"}


def test_what_learns_is_counted_without_a_model(tokenizer):
    model, tokens = begun("qwen3", tokenizer)
    with torch.device("meta"):
        shape = hf.AutoModelForCausalLM.from_config(model.config)

    count = adapted_size(shape, Lora(**ADAPTERS), len(tokens))

    learning = adapted(model, Lora(**ADAPTERS), tokens)
    assert count == sum(weight.numel() for weight in learning.parameters() if weight.requires_grad)


def test_adapters_learn_ten_times_as_fast_unless_the_recipe_says_so():
    def rate(**train: object) -> float:
        init = {"kind": "hub", "model": "m"}
        return StudentRecipe.model_validate({"init": init, "train": train}).train.learning_rate

    assert (rate(), rate(lora={}), rate(lora={}, learning_rate=5e-4)) == (1e-4, 1e-3, 5e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "tied"), [("qwen3", True), ("llama", False), ("qwen3_moe", False)])
def test_adapters_learn_labels_that_are_new_and_leave_a_plain_model(name, tied, tokenizer, tmp_path):
    source = Pretrained(family(name, tokenizer, tie_word_embeddings=tied), tokenizer, "m")

    result = taught(source, tmp_path / "seed-0", soft=True, learning_rate=1e-2, lora=ADAPTERS)

    assert result["validation_agreement"] == 100
    assert sorted(file.name for file in (tmp_path / "seed-0").glob("*adapter*")) == []
    model = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "seed-0").eval()
    loaded = hf.AutoTokenizer.from_pretrained(tmp_path / "seed-0")
    prompts = loaded(render(loaded, [row.input for row in rows(4, start=300)]), return_tensors="pt", padding=True)
    said = model.generate(**prompts, max_new_tokens=4, do_sample=False)[:, prompts["input_ids"].shape[1] :]
    assert [loaded.decode(ids, skip_special_tokens=True) for ids in said] == [row.output for row in rows(4, start=300)]


@pytest.mark.slow
def test_adapters_learn_to_write(tokenizer, tmp_path):
    told = [Example(f"r{n}", f"number {n % 3}", f"parcel {n % 3}", f"r{n}", "train", "unlabeled") for n in range(96)]
    some = TrainingRows(lambda: iter(told), lambda: iter(told[:6]))
    source = Pretrained(family("qwen3", tokenizer), tokenizer, "m")
    recipe = student(epochs=30, batch=16, learning_rate=1e-2, lora={"rank": 32})

    result = train_student(recipe, some, tmp_path / "seed-0", 0, quiet, lambda: source)

    assert result["validation_agreement"] == 100
    local = LocalModel(tmp_path / "seed-0", "main", "cpu", 8, "student")
    [said] = local.answer([Prompt("p", (Message("user", "number 2"),))], Sampling(temperature=0, max_tokens=20))
    assert (said.text, said.finish_reason) == ("parcel 2", "stop")


@pytest.mark.slow
def test_a_resumed_training_of_adapters_ends_with_the_same_weights(tokenizer, tmp_path: Path):
    some = TrainingRows(lambda: iter(rows(96, soft=True)), lambda: iter(rows(8, start=96)), LABELS)
    recipe = student(epochs=2, lora=ADAPTERS)

    def begins() -> Pretrained:
        return Pretrained(family("qwen3", tokenizer), tokenizer, "m")

    train_student(recipe, some, tmp_path / "whole" / "seed-0", 0, quiet, begins)

    def die(step: int, steps: int, detail: str) -> None:
        if step == 15:
            raise Killed

    with pytest.raises(Killed):
        train_student(recipe, some, tmp_path / "cut" / "seed-0", 0, die, begins)
    seen: list[int] = []
    train_student(recipe, some, tmp_path / "cut" / "seed-0", 0, lambda step, *_: seen.append(step), begins)

    assert seen[0] > 1, "it began anew instead of going on"
    whole, cut = (
        hf.AutoModelForCausalLM.from_pretrained(tmp_path / name / "seed-0").state_dict() for name in ("whole", "cut")
    )
    for name, weight in whole.items():
        assert torch.equal(weight, cut[name]), name


@pytest.mark.parametrize(
    ("name", "target", "nearest"),
    [
        ("llama", "qproj", "q_proj, v_proj, o_proj"),
        ("phi3", "q_proj", "qkv_proj, o_proj, down_proj"),
        ("llama", "lm_head", "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"),
        ("gemma", "proj", "v_proj, q_proj, o_proj"),
    ],
)
def test_a_target_that_is_no_layer_is_refused_with_the_nearest(name, target, nearest, tokenizer):
    model, _ = begun(name, tokenizer)

    with pytest.raises(BadInput) as refused:
        adapted(model, Lora(targets=["o_proj", target]), ())

    assert str(refused.value) == (
        f"train.lora.targets: '{target}' is no linear layer of this '{name}' model; choose among {nearest}, or "
        "all-linear"
    )


def test_without_peft_it_is_said_how_to_install_it(tokenizer, monkeypatch):
    model, _ = begun("llama", tokenizer)
    imported = builtins.__import__

    def without(name: str, *given, **also):
        if name == "peft":
            raise ImportError(name)
        return imported(name, *given, **also)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BadInput) as refused:
        adapted(model, Lora(), ())

    assert str(refused.value) == "train.lora: needs PEFT; `pip install 'understudy[lora]'`, or remove it"
