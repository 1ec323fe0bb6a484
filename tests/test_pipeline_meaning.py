"""Copies by meaning, with a sentence model whose meanings are known."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from understudy.data.errors import BadInput
from understudy.pipeline import meaning as module
from understudy.pipeline.config import MeaningRecipe
from understudy.pipeline.meaning import Meaning

from .endpoint import Endpoint
from .test_pipeline_stages import check_conservation, job, labels

MEANINGS = {
    "parcel": 0,
    "package": 0,
    "late": 1,
    "overdue": 1,
    "refund": 2,
    "money": 2,
    "please": 3,
    "now": 4,
    "blue": 5,
}
SIDES = {"test": 0, "validation": 0, "calibration": 0}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model of nine words that knows which of them mean the same."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate([*MEANINGS, "?"])}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    weights = np.zeros((len(MEANINGS) + 1, 8), np.float32)
    for place, dimension in enumerate(MEANINGS.values()):
        weights[place, dimension] = 1
    weights[-1, 7] = 0.001
    folder = tmp_path_factory.mktemp("model")
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)]).save(str(folder))
    return folder


@pytest.mark.parametrize("block", [1, 2, 100])
def test_the_first_that_says_a_thing_stays_whatever_the_blocks(model, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    texts = [
        "parcel late",
        "refund please",
        "package overdue",
        "overdue parcel",
        "parcel blue",
        "money please",
        "late package",
    ]

    found = Meaning(MeaningRecipe(model=str(model)), Path()).seen([*"abcdefg"], texts)

    assert [copy and copy[0] for copy in found] == [None, None, "a", "a", None, "b", "a"]
    assert all(copy is None or copy[1] == pytest.approx(1) for copy in found)


def test_many_rows_are_compared_with_all_that_were_kept(model):
    known = Meaning(MeaningRecipe(model=str(model), similarity=0.999), Path())
    words = list(MEANINGS)
    texts = [" ".join(words[(number >> step) % 9] for step in range(0, 12, 2)) for number in range(1200)]
    said = known.seen([str(number) for number in range(1200)], texts)

    kept: dict[tuple[int, ...], str] = {}
    for number, text in enumerate(texts):
        counts = np.bincount([MEANINGS[word] for word in text.split()], minlength=6)
        meant = tuple(counts // np.gcd.reduce(counts))
        first = kept.setdefault(meant, str(number))
        copy = said[number]
        assert (copy is None) == (first == str(number))
        assert copy is None or copy[0] == first


def test_a_run_drops_them_and_says_of_what_they_are_copies(model, tmp_path):
    texts = ["parcel late", "package overdue", "refund please", "money please", "blue parcel"]
    with Endpoint(then=labels) as endpoint:
        made = job(tmp_path, endpoint, texts, split=SIDES, curate={"meaning": {"model": str(model)}})
        manifest = made.run("curate")

    assert manifest["rows"]["rejected"] == {"meaning_duplicate": 2}
    assert len(made.rows("curate")) == 3
    check_conservation(made, "curate", manifest)
    for row in made.artifact("curate").rows("rejected"):
        assert re.match(r"1\.000 to train/\w{16}: ", row["evidence"])


def test_gold_is_not_learnt_in_other_words(model, tmp_path):
    with Endpoint(then=labels) as endpoint:
        made = job(tmp_path, endpoint, ["package overdue", "blue refund"], split=SIDES)
        made.fields["task"]["test"] = {"gold": "gold.jsonl"}
        made.fields["curate"] = {"meaning": {"model": str(model)}}
        made.write("gold.jsonl", [{"input": "parcel late", "output": "delivery"}])
        manifest = made.run("curate")

    assert manifest["rows"]["rejected"] == {"meaning_duplicate_of_gold": 1}


def refusals(tmp_path: Path) -> Iterator[tuple[str, str]]:
    (tmp_path / "empty").mkdir()
    yield str(tmp_path / "empty"), "cannot be loaded: "
    yield "no such model", "cannot be loaded: "


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name, said in refusals(tmp_path):
        with pytest.raises(BadInput) as caught:
            Meaning(MeaningRecipe(model=name), Path())
        assert str(caught.value).startswith(f"curate.meaning.model: '{name}' {said}")
        assert str(caught.value).endswith("; name a sentence model's folder or hub id")
        assert "\n" not in str(caught.value)
