"""Leaks from a test, in rows of any length, and what is none."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from understudy.data.contamination import Contamination, words_of

DATASETS = Path(__file__).parents[2] / "shared" / "datasets"
ASKED = "why was I charged twice for one order"


def kind(text: str, *tests: str) -> str | None:
    known = Contamination()
    for test in tests or (ASKED,):
        known.add("gold", test)
    leak = known.find(text)
    return leak.kind if leak else None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ASKED, "same"),
        ("WHY was i charged twice, for one order?!", "same"),
        ("why was I charged thrice for one order", "near"),
        ("why was I charged twice for order", "near"),
        ("but why was I charged twice for one order", "near"),
        (f"good morning everybody {ASKED} thank you for looking into it", "inside"),
        ("good morning to you why was I billed twice for one order thank you very much", None),
        ("why was I not charged at all for one order", None),
        ("where is my parcel", None),
        ("", None),
    ],
)
def test_a_test_text_is_found_however_it_comes_back(text, expected):
    assert kind(text) == expected


def test_three_words_are_found_as_a_whole_and_not_wherever_they_occur():
    assert kind("Cancel my order!", "cancel my order") == "same"
    assert kind("cancel my plan", "cancel my order") is None
    assert kind("please cancel my order before it is sent", "cancel my order") is None


def test_a_short_text_inside_a_longer_one_has_to_be_there_word_for_word():
    assert kind("hello there where is my parcel please tell me soon", "where is my parcel") == "inside"
    assert kind("hello there where is my brother please tell me soon", "where is my parcel") is None


def test_a_longer_text_may_differ_in_one_word_of_ten():
    words = [chr(97 + number % 26) * (1 + number // 26) for number in range(30)]
    changed = [word.upper() + "x" if number in (3, 14, 25) else word for number, word in enumerate(words)]
    other = [word.upper() + "x" if number in (3, 8, 14, 25) else word for number, word in enumerate(words)]

    assert kind(" ".join(changed), " ".join(words)) == "near"
    assert kind(" ".join(other), " ".join(words)) is None
    assert kind("good morning to all of you " + " ".join(changed), " ".join(words)) == "inside"


def test_another_number_is_another_message():
    assert kind("where is order 4812 of mine", "where is order 4811 of mine") is None
    assert kind("hello there where is order 4812 of mine thank you all", "where is order 4811 of mine") is None
    assert kind("where is parcel 4811 of mine", "where is order 4811 of mine") == "near"
    assert kind("where is order that of mine", "where is order 4811 of mine") == "near"


def test_words_with_an_apostrophe_or_a_hyphen_are_one_however_they_are_spelt():
    assert words_of("I haven't got a top-up!") == ("i", "havent", "got", "a", "topup")
    assert kind("my topup has not arrived", "my top-up has not arrived") == "same"
    assert kind("my top up has not arrived", "my top-up has not arrived") == "same"


def test_scripts_without_spaces_are_compared_by_their_characters():
    assert kind("我的包裹在哪里请问", "我的包裹在哪里") == "inside"
    assert kind("我的包裏在哪里", "我的包裹在哪里") == "near"
    assert kind("สวัสดีค่ะ พัสดุของฉันอยู่ที่ไหน ช่วยตอบด้วยนะคะ", "พัสดุของฉันอยู่ที่ไหน") == "inside"
    assert kind("退款什么时候到账", "我的包裹在哪里") is None


def test_marks_that_turn_direction_and_nul_hide_nothing():
    assert kind(f"\u202e{ASKED}\0") == "same"


def test_the_test_and_its_text_are_named():
    known = Contamination()
    known.add("bench.jsonl", ASKED)
    known.add("gold/other", ASKED.upper())

    leak = known.find(ASKED)

    assert leak is not None
    assert (leak.test, leak.text) == ("bench.jsonl", ASKED)


def test_planted_leaks_are_found_and_unrelated_rows_are_not():
    if not DATASETS.exists():
        pytest.skip("needs the real messages of ../shared/datasets")
    from .benchmarks.contamination import datasets, recall

    for name, train, tests in datasets():
        known = Contamination()
        for text, _ in tests:
            known.add(name, text)
        found = recall(tests[:700], [text for text, _ in train], known.find)
        assert all(hits >= 0.99 * made for hits, made in found.values()), (name, found)
    strangers = random.Random(0).sample([text for text, _ in train], 500)  # school arithmetic
    banking = Contamination()
    for text, _ in next(datasets())[2]:
        banking.add("banking77", text)
    assert [text for text in strangers if banking.find(text)] == []
