"""The corpus of the embedded teacher: what it holds, and what it keeps from training."""

from __future__ import annotations

import json
import re
from itertools import islice
from pathlib import Path

import pytest

from understudy.jobs.embedded.grammar import CORPUS, HELD_OUT, Grammar
from understudy.jobs.embedded.make import JOB, grammar_test

HERE = CORPUS.parent


@pytest.fixture(scope="module")
def grammar() -> Grammar:
    return Grammar()


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_label_has_a_thousand_phrasings_that_decide_it(grammar):
    assert len(grammar.labels) == 14
    assert min(len(sections.core) for sections in grammar.labels.values()) >= 1000


def test_a_phrasing_decides_one_label_only(grammar):
    labels = {}
    for label, sections in grammar.labels.items():
        for core in sections.core:
            assert labels.setdefault(core, label) == label


@pytest.mark.parametrize("file", sorted(CORPUS.glob("*.txt")), ids=lambda file: file.stem)
def test_brackets_and_slots_of_a_phrasing_are_sound(file, grammar):
    known = {*grammar.shared, "number", "amount"}
    for line in file.read_text(encoding="utf-8").splitlines():
        plain = re.sub(r"\([^()]*\)", "", line)
        assert not set(plain) & set("|"), line
        assert set(re.findall(r"\{(\w*)\}", line)) <= known, line


def test_whole_productions_are_held_out_and_no_training_message_is_made_of_one(grammar):
    for label in grammar.labels:
        ours, kept = (grammar.side(label, held_out=held_out) for held_out in (False, True))
        assert not set(ours.core) & set(kept.core)
        assert not set(ours.detail) & set(kept.detail)
        assert len(kept.core) / len(grammar.labels[label].core) == pytest.approx(HELD_OUT, abs=0.035)


def test_the_grammar_test_in_the_demo_is_what_the_held_out_productions_compose(grammar):
    assert rows(JOB / "grammar_test.jsonl") == grammar_test(grammar, 2100)


def test_equal_seeds_compose_equal_messages_and_others_do_not(grammar):
    def some(seed: int) -> list[str]:
        return [message.text for message in islice(grammar.messages("refund", seed), 20)]

    assert some(3) == some(3)
    assert some(3) != some(4)


@pytest.mark.slow
def test_the_grammar_composes_two_hundred_thousand_distinct_messages(grammar):
    messages = {message.text for label in grammar.labels for message in islice(grammar.messages(label, 0), 15_000)}

    assert len(messages) >= 200_000


def test_each_handwritten_message_is_published_with_its_nearest_corpus_message():
    written, near = rows(JOB / "handwritten.jsonl"), rows(HERE / "neighbours.jsonl")

    assert [row["input"] for row in near] == [row["input"] for row in written]
    assert len(written) >= 300
    assert all(row["nearest"] and 0 < row["jaccard"] <= 1 for row in near)
