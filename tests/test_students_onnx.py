"""A student written as ONNX says what it says in torch, from a folder that holds nothing of where it was made."""

from __future__ import annotations

import asyncio
import math
import shutil
import sys
from pathlib import Path

import pytest
import torch
import transformers as hf

from understudy.data.errors import BadInput
from understudy.data.rows import Answer, Failed, Message, Prompt
from understudy.data.teacher import Sampling, Teacher
from understudy.students.build import build_dense
from understudy.students.config import Dense
from understudy.students.onnx import write_onnx
from understudy.students.tokenizer import save_tokenizer, train_tokenizer
from understudy.teachers.onnxruntime import OnnxTeacher
from understudy.teachers.transformers import TransformersTeacher

from .taught import a_classifier

LABELS = ("refund", "Log in", "delivery")
TEXTS = ("Please REFUND my order", "\ufb01ne", "where is the parcel, i want to know " * 9)


def save(folder: Path, config: hf.PretrainedConfig | None = None, labels: tuple[str, ...] = LABELS) -> Path:
    """A student with random weights; by default of the shape that ours have, else of a family's."""
    words = [f"please refund order {n}, where is the parcel" for n in range(99)]
    tokenizer = train_tokenizer(words, 400, labels, fold_case=True)
    if config is None:
        model = build_dense(Dense(kind="dense", parameters="0.3M"), tokenizer, labels, 0)
    else:
        torch.manual_seed(0)
        model = hf.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # a fresh model says one token for ever; a louder one does not
        for weight in model.parameters():
            weight.mul_(4 if weight.ndim == 2 else 1)
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return folder


def family(kind: type[hf.PretrainedConfig], **fields: object) -> hf.PretrainedConfig:
    shape = {"vocab_size": 400, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "eos_token_id": 1}
    return kind(**{**shape, **heads, **fields})


def exported(student: Path, folder: Path, labels: tuple[str, ...] = LABELS, *, int8: bool = False) -> OnnxTeacher:
    folder.mkdir()
    for file in student.iterdir():
        if "safetensors" not in file.name:
            shutil.copy(file, folder)
    write_onnx(student, folder, labels, int8=int8, where="--format onnx")
    return OnnxTeacher(folder, threads=1)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def scorer(student: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[OnnxTeacher, Path]:
    """The student as ONNX, and its folder."""
    folder = tmp_path_factory.mktemp("scorer") / "onnx"
    return exported(student, folder), folder


def said(model: Teacher, choices: tuple[str, ...], **sampling: object) -> list[Answer | Failed]:
    async def ask() -> list[Answer | Failed]:
        prompts = [Prompt(text[:5], (Message("user", text),), choices=choices) for text in TEXTS]
        return [await model.answer(prompt, Sampling(**sampling)) for prompt in prompts]

    return asyncio.run(ask())


def test_labels_have_the_probabilities_that_they_have_in_torch(student, scorer):
    model, _ = scorer

    found = said(model, LABELS)

    assert isinstance(model, Teacher)
    for ours, theirs in zip(found, said(TransformersTeacher(student), LABELS), strict=True):
        assert ours.scores == pytest.approx(theirs.scores, abs=1e-4)
        assert (ours.text, ours.input_tokens) == (theirs.text, theirs.input_tokens)
    some = said(model, ("Log in", "refund"))[0]
    assert list(some.scores) == ["Log in", "refund"]
    assert math.fsum(map(math.exp, some.scores.values())) == pytest.approx(1)


@pytest.mark.parametrize("config", [None, family(hf.MistralConfig, sliding_window=8)], ids=["ours", "sliding"])
def test_text_is_written_as_in_torch_to_the_letter(config, tmp_path):
    student = save(tmp_path / "student", config, labels=())
    model = exported(student, tmp_path / "onnx", labels=())

    found = said(model, (), max_tokens=24)

    assert found == said(TransformersTeacher(student), (), max_tokens=24)
    assert len({answer.text for answer in found}) == len(TEXTS)
    assert {answer.output_tokens for answer in found} != {1}


def test_a_classifier_has_the_probabilities_that_it_has_in_torch(tmp_path):
    student = a_classifier(tmp_path / "student", LABELS)
    model = hf.AutoModelForSequenceClassification.from_pretrained(student)
    tokenizer = hf.AutoTokenizer.from_pretrained(student)

    onnx = exported(student, tmp_path / "onnx")

    found = said(onnx, LABELS)

    for text, answer in zip(TEXTS, found, strict=True):
        with torch.inference_mode():
            theirs = model(**tokenizer(text, return_tensors="pt")).logits[0].log_softmax(-1).tolist()
        assert answer.scores == pytest.approx(dict(zip(LABELS, theirs, strict=True)), abs=1e-4)
    lengths = [(words, Prompt("x", (Message("user", "order " * words),), choices=LABELS)) for words in (510, 511)]
    fits = {words: isinstance(asyncio.run(onnx.answer(prompt, Sampling())), Answer) for words, prompt in lengths}
    assert fits == {510: True, 511: False}, "512 positions, two of them for the marks around a text"


def test_a_byte_a_weight_is_a_quarter_of_the_size_and_hardly_moves_a_probability(student, scorer, tmp_path):
    whole, folder = scorer
    small = exported(student, tmp_path / "int8", int8=True)

    sizes = [(place / "model.onnx").stat().st_size for place in (folder, tmp_path / "int8")]

    assert 3 < sizes[0] / sizes[1] < 4.5
    for ours, theirs in zip(said(small, LABELS), said(whole, LABELS), strict=True):
        assert ours.scores == pytest.approx(theirs.scores, abs=0.5)
        assert ours.scores != theirs.scores
    assert whole.name != small.name
    assert small.identity == {"kind": "onnx", "model": small.name.removesuffix("@main"), "revision": "main"}


def test_no_file_names_a_folder_of_this_machine(student, scorer):
    _, folder = scorer

    for file in folder.iterdir():
        for path in (Path(__file__).parent.parent, sys.prefix, student, folder):
            assert str(path).encode() not in file.read_bytes(), file


def test_a_student_that_cannot_be_written_is_refused_in_one_line(tmp_path):
    mixture = family(hf.Qwen3MoeConfig, moe_intermediate_size=32, num_experts=4, num_experts_per_tok=2)
    found = (
        r"^--format onnx: a student of type Qwen3MoeForCausalLM cannot be written as ONNX by the installed torch; "
        r"use --format safetensors$"
    )

    with pytest.raises(BadInput, match=found):
        exported(save(tmp_path / "student", mixture, labels=()), tmp_path / "onnx", labels=())


def test_a_missing_package_or_a_broken_file_is_refused_in_one_line(student, tmp_path, monkeypatch):
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(student / file, tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(BadInput, match=r"^export: .*/model\.onnx cannot be loaded: .*; export it again$"):
        OnnxTeacher(tmp_path)

    remedy = r"run `pip install 'understudy\[onnx\]'`$"
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(BadInput, match=rf"^--format onnx: there is no module 'onnxscript'; {remedy}"):
        write_onnx(student, tmp_path, LABELS, int8=False, where="--format onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BadInput, match=rf"^export: there is no module 'onnxruntime'; {remedy}"):
        OnnxTeacher(tmp_path)


def test_what_the_file_does_not_do_is_a_failed_row(scorer):
    model, _ = scorer

    (other, *_), (text, *_), (warm, *_) = (
        said(model, ("refund", "unheard of")),
        said(model, ()),
        said(model, LABELS, temperature=1.0),
    )

    assert (other.kind, text.kind, warm.kind) == ("choices", "choices", "sampling")
    assert other.message.endswith("model.onnx answers with one of 3 labels, and something else was asked")
    assert warm.message == "an exported student answers greedily; set temperature = 0"
    prompt = Prompt("long", (Message("user", "order " * 3000),), choices=LABELS)
    assert asyncio.run(model.answer(prompt, Sampling())).kind == "too_long"
