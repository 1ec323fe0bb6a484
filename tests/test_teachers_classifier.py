"""A model with a head for labels answers as any local teacher does: exact scores, whatever the company."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest
import torch
import transformers as hf

from understudy.data.errors import BadInput
from understudy.data.rows import Answer, Failed, Message, Prompt
from understudy.data.teacher import Sampling
from understudy.teachers.classifier import LocalClassifier
from understudy.teachers.transformers import TransformersTeacher

from .test_students_encoder import SMALL, pieces

LABELS = ("refund", "lost parcel", "other")
TEXTS = ["parcel", "where is my money", "the courier is late " * 9, "tracking"]


@pytest.fixture(scope="module", params=["bert", "roberta"])
def folder(request, tmp_path_factory) -> Path:
    """Weights large enough that the labels differ; RoBERTa tells positions from padding."""
    kind = {"bert": hf.BertConfig, "roberta": hf.RobertaConfig}[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    names = dict(enumerate(LABELS))
    more = {"id2label": names, "label2id": {label: n for n, label in names.items()}, "initializer_range": 0.3}
    more["max_position_embeddings"] = 130 if request.param == "roberta" else 128
    config = kind(vocab_size=len(pieces()), pad_token_id=0, **SMALL | more)
    hf.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    pieces().save_pretrained(folder)
    return folder


def asked(texts: list[str], choices: tuple[str, ...] = LABELS) -> list[Prompt]:
    return [Prompt(str(n), (Message("user", text),), choices=choices) for n, text in enumerate(texts)]


def answers(folder: Path, prompts: list[Prompt], batch: int = 8) -> list[Answer | Failed]:
    teacher = TransformersTeacher(folder, batch=batch, device="cpu")

    async def all_of_them() -> list[Answer | Failed]:
        said = await asyncio.gather(*(teacher.answer(prompt, Sampling()) for prompt in prompts))
        await teacher.close()
        return said

    return asyncio.run(all_of_them())


def test_scores_are_those_of_plain_transformers_alone_and_in_company(folder):
    model = hf.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)

    together, alone = answers(folder, asked(TEXTS)), answers(folder, asked(TEXTS), batch=1)

    for text, one, other in zip(TEXTS, together, alone, strict=True):
        with torch.inference_mode():
            logps = model(**tokenizer(text, return_tensors="pt")).logits[0].log_softmax(-1)
        expected = {label: logps[number].item() for number, label in enumerate(LABELS)}
        for said in (one, other):
            assert said.scores == pytest.approx(expected, abs=1e-4)
            assert said.text == max(expected, key=expected.get)
            assert said.input_tokens == len(tokenizer(text)["input_ids"])


def test_fewer_choices_in_another_order_share_the_whole_probability(folder):
    (all_of_them,), (some,) = (answers(folder, asked(TEXTS[:1], choices)) for choices in (LABELS, ("other", "refund")))

    assert list(some.scores) == ["other", "refund"]
    assert sum(map(math.exp, some.scores.values())) == pytest.approx(1)
    apart = all_of_them.scores["other"] - all_of_them.scores["refund"]
    assert some.scores["other"] - some.scores["refund"] == pytest.approx(apart, abs=1e-5)


def test_a_message_too_long_is_its_own_failed_row(folder):
    said = answers(folder, asked([*TEXTS, "parcel " * 126, "parcel " * 127]))

    assert [isinstance(one, Answer) for one in said] == [True] * 5 + [False]
    assert (said[5].id, said[5].kind) == ("5", "too_long")


def test_what_it_cannot_say_is_refused_in_one_line(folder):
    with pytest.raises(BadInput) as written:
        answers(folder, asked(TEXTS, ()))
    with pytest.raises(BadInput) as unknown:
        answers(folder, asked(TEXTS, ("refund", "billing")))

    assert str(written.value) == f"teacher: {folder} has a head for labels and writes nothing; ask it for closed labels"
    assert str(unknown.value) == (
        f"teacher: {folder} has no label 'billing'; its 3 labels begin with refund, lost parcel, other; ask it for "
        "those it was trained on"
    )


def test_a_head_that_is_not_in_the_file_is_refused(tmp_path):
    config = hf.BertConfig(vocab_size=len(pieces()), architectures=["BertForSequenceClassification"], **SMALL)
    hf.AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(hf.BertConfig(**config.to_dict()).to_json_string(use_diff=False))
    pieces().save_pretrained(tmp_path)

    with pytest.raises(BadInput, match=r"lacks \d+ weights, such as bert\.pooler\.dense\.bias; save the whole model"):
        LocalClassifier(tmp_path, "main", "cpu", 8, "teacher")
