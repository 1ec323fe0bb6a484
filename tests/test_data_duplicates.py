"""Copies: what counts as one, and that the first of its kind stays."""

import random
from itertools import pairwise

import pytest
from pydantic import ValidationError

from understudy.data.duplicates import DuplicateRecipe, Duplicates, fold, shingles, similarity

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


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 1.0])
def test_nearly_every_copy_above_the_threshold_is_found_and_few_below(threshold):
    rng = random.Random(1)
    found = {"above": [], "below": []}
    for _ in range(250):
        words = [f"w{rng.randrange(5000)}" for _ in range(60)]
        changed = list(words)
        for place in rng.sample(range(60), rng.randrange(16)):
            changed[place] = f"v{rng.randrange(5000)}"
        similarity = jaccard(words, changed)
        known = near(threshold)
        assert known.seen("a", " ".join(words)) is None
        copy = known.seen("b", " ".join(changed)) is not None
        if similarity >= min(1, threshold + 0.06):
            found["above"].append(copy)
        elif similarity < threshold - 0.12:
            found["below"].append(copy)
    assert sum(found["above"]) >= 0.98 * len(found["above"]) > 0
    assert sum(found["below"]) <= 0.02 * len(found["below"])


def jaccard(one: list[str], other: list[str]) -> float:
    """Of words and word pairs, counted plainly."""
    left, right = ({*words, *pairwise(words)} for words in (one, other))
    return len(left & right) / len(left | right)


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


def test_near_is_what_comparing_each_with_each_says():
    draw = random.Random(4)
    words = [f"word{number}" for number in range(60)]
    known, kept, found, copies = near(), [], 0, 0
    for number in range(1500):
        text = draw.sample(words, draw.randint(4, 24))
        if kept and draw.random() < 0.5:
            text = draw.choice(kept).split()
            for _ in range(draw.randint(1, 2)):
                text[draw.randrange(len(text))] = draw.choice(words)
        parts = shingles(fold(" ".join(text)))
        copy = any(similarity(parts, shingles(fold(other))) >= 0.8 for other in kept)
        said = known.seen(str(number), " ".join(text)) is not None
        assert copy or not said, "no row is dropped for an unlucky sketch"
        copies, found = copies + copy, found + said
        if not said:
            kept.append(" ".join(text))
    assert copies > 100
    assert found >= 0.98 * copies
