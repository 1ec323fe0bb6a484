"""Copies: what counts as one, and that the first of its kind stays."""

import random

import pytest
from pydantic import ValidationError

from understudy.data.duplicates import DuplicateRecipe, Duplicates, fold
from understudy.data.shingles import shingles, similarity

FOX = "the quick brown fox jumps over the lazy dog and runs far away into the dark green wood behind our old house"


def exact() -> Duplicates:
    return Duplicates(DuplicateRecipe(near=None))


def near(threshold: float = 0.8) -> Duplicates:
    return Duplicates(DuplicateRecipe(near=threshold))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Where is my parcel?", "where is my parcel"),
        ("Where is my parcel?", "  WHERE\tis\nmy — parcel!!! "),
        ("Café crème", "Cafe\u0301 cre\u0300me"),
        ("Straße", "STRASSE"),
        ("order ①", "order 1"),
        ("\uff46\uff55\uff4c\uff4c", "full"),
        ("it's", "it\u2019s"),
        ("order_status", "Order status"),
        ("**billing**", "`billing`"),
        ("", " \n?!"),
    ],
)
def test_case_spelling_of_accents_space_and_punctuation_make_no_other_message(one, other):
    assert fold(one) == fold(other)
    known = exact()
    assert known.seen("a", one) is None
    assert known.seen("b", other) == ("exact", "a")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("order 12", "order 13"),
        ("resume", "résumé"),
        ("का", "की"),
        ("दिल्ली", "दिल्ला"),
        ("ไม่", "ไม้"),
        ("👍", "👎"),
        ("great 👍", "great 👎"),
        ("it costs 5 $", "it costs 5 €"),
        ("1 2", "12"),
        ("我要退款", "我不要退款"),
    ],
)
def test_other_words_numbers_vowel_signs_emoji_and_currencies_do(one, other):
    assert fold(one) != fold(other)
    known = exact()
    assert known.seen("a", one) is None
    assert known.seen("b", other) is None


def test_the_first_of_its_kind_stays_whatever_comes_after():
    known = near()
    texts = [("c", FOX), ("b", FOX.upper()), ("a", f"{FOX}!"), ("z", "another one"), ("y", "Another one.")]
    assert [known.seen(name, text) for name, text in texts] == [
        None,
        ("exact", "c"),
        ("exact", "c"),
        None,
        ("exact", "z"),
    ]


def test_a_long_text_with_one_word_changed_is_a_near_copy_of_the_earliest_such_text():
    known = near()
    assert known.seen("z", FOX) is None
    assert known.seen("m", "nothing like it at all but as long as it has to be to count for something here") is None
    assert known.seen("a", FOX.replace("house", "barn")) == ("near", "z")
    assert known.seen("b", f"{FOX} indeed") == ("near", "z")


def test_a_near_copy_is_not_remembered_so_that_copies_do_not_wander():
    known = near()
    assert known.seen("first", FOX) is None
    words = FOX.split()
    drifted = FOX
    kept = []
    for place in range(len(words)):
        drifted = " ".join([*(f"other{n}" for n in range(place + 1)), *words[place + 1 :]])
        if known.seen(str(place), drifted) is None:
            kept.append(place)
    assert kept
    assert kept[0] >= 1  # one word of twenty-two changed is near; at some point it is another text


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.6, 0.8, 0.9, 1.0])
def test_the_answers_are_those_of_comparing_every_text_with_all_that_stayed(threshold):
    rng = random.Random(1)
    texts = [" ".join(f"w{int(rng.expovariate(0.3))}" for _ in range(rng.randrange(1, 14))) for _ in range(700)]
    for _ in range(300):
        words = rng.choice(texts).split()
        words[rng.randrange(len(words))] = f"w{rng.randrange(9)}"
        texts.insert(rng.randrange(len(texts)), " ".join(words))
    answers = near(threshold).decide([(str(n), text) for n, text in enumerate(texts)])
    assert answers == plainly(texts, threshold)
    assert {answer and answer[0] for answer in answers} == {None, "exact", "near"}


def plainly(texts: list[str], threshold: float) -> list[tuple[str, str] | None]:
    """The same by comparing all with all."""
    stayed: dict[str, int] = {}
    answers: list[tuple[str, str] | None] = []
    for n, text in enumerate(texts):
        alike = [m for one, m in stayed.items() if similarity(shingles(one), shingles(text)) >= threshold]
        if text in stayed:
            answers.append(("exact", str(stayed[text])))
        elif alike:
            answers.append(("near", str(alike[0])))
        else:
            stayed[text] = n
            answers.append(None)
    return answers


def test_short_texts_that_differ_by_one_word_are_two_texts():
    known = near()
    assert known.seen("a", "cancel my order") is None
    assert known.seen("b", "change my order") is None
    assert known.seen("c", "cancel my card") is None


def test_a_name_that_comes_twice_hides_neither_text():
    known = near()
    other = "something completely different and new about quite other things that nobody has said here before today"
    assert known.seen("a", FOX) is None
    assert known.seen("a", other) is None
    assert known.seen("b", f"{other} yes") == ("near", "a")


def test_many_rows_are_decided_as_one_by_one_however_they_are_parted():
    texts = [f"{FOX} number {n % 90} of {n % 41}" for n in range(400)] + [f"row {n} says {n * n}" for n in range(200)]
    rows = [(str(n), text) for n, text in enumerate(random.Random(2).sample(texts * 2, len(texts) * 2))]
    alone, known = near(), near()
    one_by_one = [alone.seen(*row) for row in rows]
    assert [known.decide(rows[start : start + 77]) for start in range(0, len(rows), 77)] == [
        one_by_one[start : start + 77] for start in range(0, len(rows), 77)
    ]
    assert near().decide(rows) == one_by_one


def test_rows_of_one_template_that_differ_by_a_number_are_no_copies_and_cost_no_more_than_others():
    rows = [(str(n), f"my order number {n} has not come yet and i want it now") for n in range(12_000)]
    known = near()
    assert known.decide(rows) == [None] * len(rows)
    again = [("again", f"so {text}") for _, text in rows[::3000]]
    assert known.decide(again) == [("near", name) for name, _ in rows[::3000]]


def test_a_copy_of_a_text_that_was_dropped_itself_is_one_of_the_text_that_stayed():
    barn = FOX.replace("house", "barn")
    assert near().decide([("a", FOX), ("b", barn), ("c", barn)]) == [None, ("near", "a"), ("near", "a")]


def test_texts_longer_than_are_decided_on_together_and_halves_of_characters_are_no_obstacle():
    long = " ".join(f"w{n}" for n in range(60_000))
    rows = [("a", long), ("b", f"{long} more"), ("c", "\ud800 half"), ("d", "\ud800 Half!"), ("e", "")]
    assert near().decide(rows) == [None, ("near", "a"), None, ("exact", "c"), None]


def test_null_keeps_all_but_exact_copies():
    known = exact()
    assert known.seen("a", FOX) is None
    assert known.seen("b", FOX.replace("house", "barn")) is None
    assert known.seen("c", FOX) == ("exact", "a")


def test_the_answer_depends_on_the_rows_and_their_order_alone():
    texts = [f"{FOX} number {n % 7} of {n % 3}" for n in range(60)]
    runs = [[known.seen(str(n), text) for n, text in enumerate(texts)] for known in (near(), near())]
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.0, "Input should be greater than 0"),
        (1.5, "Input should be less than or equal to 1"),
        ("0.8", "Input should be a valid number"),
    ],
)
def test_a_similarity_that_cannot_be_is_refused(value, message):
    with pytest.raises(ValidationError) as caught:
        DuplicateRecipe(near=value)
    assert caught.value.errors()[0]["msg"] == message
