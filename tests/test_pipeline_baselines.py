from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from understudy.pipeline.baselines import Linear, Neighbour, majority

SHARED = Path(__file__).parents[2] / "shared" / "datasets" / "banking77"

PHRASES = {
    "billing": ["refund my {}", "the invoice for {} is wrong", "why was I charged for {}", "pay for {} by card"],
    "delivery": ["where is my {}", "the {} never arrived", "parcel with {} is late", "courier lost the {}"],
    "technical": ["the {} will not start", "{} crashes on launch", "error screen on my {}", "reset the {} password"],
}
THINGS = ["kettle", "phone", "lamp", "desk", "router", "jacket", "camera", "printer"]


def said(model: Linear | Neighbour, texts: list[str]) -> list[str]:
    return [output for output, _ in model.answers(texts)]


def tickets(things: list[str]) -> tuple[list[str], list[str]]:
    rows = [(phrase.format(thing), label) for label in PHRASES for phrase in PHRASES[label] for thing in things]
    return [text for text, _ in rows], [label for _, label in rows]


def test_the_commonest_label_is_the_majority_and_ties_go_by_alphabet():
    assert majority(["b", "a", "b", "c"]) == "b"
    assert majority(["b", "a"]) == "a"
    assert majority([]) == ""


def test_a_linear_model_learns_what_n_grams_tell():
    model = Linear.fit(*tickets(THINGS[:6]))
    texts, labels = tickets(THINGS[6:])

    assert model.labels == ["billing", "delivery", "technical"]
    assert said(model, texts) == labels


def test_probabilities_sum_to_one_and_agree_with_the_prediction():
    model = Linear.fit(*tickets(THINGS))
    texts = ["refund", "", "something else entirely", "the phone crashes"]

    probabilities = model.probabilities(texts)

    assert probabilities.shape == (4, 3)
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert [model.labels[place] for place in probabilities.argmax(axis=1)] == said(model, texts)


def test_probabilities_are_as_sure_as_the_rows_held_out_allow():
    random = np.random.default_rng(0)
    texts, labels = tickets(THINGS)
    noisy = [str(random.choice(list(PHRASES))) if random.random() < 0.3 else label for label in labels]

    clean, doubtful = Linear.fit(texts, labels), Linear.fit(texts, noisy)

    assert clean.probabilities(texts).max(axis=1).mean() > doubtful.probabilities(texts).max(axis=1).mean() + 0.1


def test_the_same_rows_and_seed_give_the_same_model():
    texts, labels = tickets(THINGS)

    first, second = Linear.fit(texts, labels, seed=3), Linear.fit(texts, labels, seed=3)

    assert first.strength == second.strength
    assert np.array_equal(first.probabilities(texts), second.probabilities(texts))


def test_parameters_and_bytes_count_weights_and_n_grams():
    model = Linear.fit(["a b", "c d"], ["x", "y"])

    # words a, b, c, d, "a b", "c d"; characters " a", "a ", " a " and so on, three for each word; one column of zeros
    assert model.parameters == 2 * (6 + 12 + 1) + 2
    assert model.bytes == 4 * model.parameters + (4 * 1 + 2 * 3 + 4 * (2 + 2 + 3)) + 4 * 18


@pytest.mark.parametrize("rows", [1, 2, 5, 40])
def test_a_single_label_is_always_the_answer(rows: int):
    model = Linear.fit([f"text {row}" for row in range(rows)], ["only"] * rows)

    assert said(model, ["text 1", "anything", ""]) == ["only"] * 3
    assert model.probabilities(["anything"]).tolist() == [[1.0]]


def test_labels_with_one_row_do_not_stop_the_fit():
    texts, labels = tickets(THINGS)

    model = Linear.fit([*texts, "bonjour tout le monde", "guten tag"], [*labels, "french", "german"])

    assert said(model, ["bonjour le monde", "refund my lamp"]) == ["french", "billing"]


def test_every_label_may_have_one_row():
    model = Linear.fit([f"word{row} and" for row in range(9)], [f"label{row}" for row in range(9)])

    assert said(model, ["word4", "word7"]) == ["label4", "label7"]


@pytest.mark.parametrize(
    "texts", [["", " ", "", "\n", "", "", ""], ["🙂", "🙃", "🙂", "🙃", "🙂", "!", "?"], ["a"] * 7], ids=repr
)
def test_texts_without_words_get_the_fit_that_is_left(texts: list[str]):
    model = Linear.fit(texts, ["x", "y", "x", "y", "x", "x", "x"])

    assert set(said(model, [*texts, "never seen", ""])) <= {"x", "y"}
    assert np.isfinite(model.probabilities(["never seen", ""])).all()
    assert said(model, [""]) == ["x"]


def test_no_texts_get_no_answers():
    model = Linear.fit(["a", "b"], ["x", "y"])

    assert said(model, []) == []
    assert model.probabilities([]).shape == (0, 2)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="../shared/datasets is not here")
def test_the_linear_baseline_is_strong_on_2504_rows_of_banking77():
    import pyarrow.parquet as pq

    half, test = (pq.read_table(SHARED / f"{name}.parquet").to_pydict() for name in ("gold_half", "test"))

    model = Linear.fit(half["text"][::2], half["label"][::2])

    right = [output == label for output, label in zip(said(model, test["text"]), test["label"], strict=True)]
    assert sum(right) / len(right) >= 0.83


def test_the_nearest_rows_answer_by_vote():
    texts, labels = tickets(THINGS[:6])
    model = Neighbour.fit(texts, labels)
    unseen, wanted = tickets(THINGS[6:])

    assert said(model, unseen) == wanted
    assert all(0 < sure <= 1 for _, sure in model.answers(unseen))
    assert said(model, []) == []


def test_an_answer_that_comes_once_is_copied_from_the_nearest_row():
    texts = [f"book {seats} seats to {city}" for seats in range(1, 6) for city in ("Rome", "Oslo", "Lima")]
    model = Neighbour.fit(texts, [text.upper() for text in texts])

    assert model.nearest == 1
    assert said(model, ["please book 3 seats to Oslo"]) == ["BOOK 3 SEATS TO OSLO"]


def test_a_text_that_is_like_no_row_is_answered_without_confidence():
    model = Neighbour.fit(["alpha beta", "gamma delta"] * 5, ["a", "b"] * 5)

    ((_, sure),) = model.answers(["\N{SNOWMAN}"])

    assert sure == 0.0


@pytest.mark.parametrize("rows", [1, 2])
def test_few_rows_still_have_neighbours(rows: int):
    model = Neighbour.fit(["alpha", "beta"][:rows], ["a", "b"][:rows])

    assert said(model, ["alpha"]) == ["a"]
    assert model.bytes > 0


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="../shared/datasets is not here")
def test_the_baselines_are_strong_on_all_of_banking77():
    import pyarrow.parquet as pq

    train, test = (pq.read_table(SHARED / f"{name}.parquet").to_pydict() for name in ("train", "test"))

    def right(model: Linear | Neighbour) -> float:
        pairs = zip(said(model, test["text"]), test["label"], strict=True)
        return sum(output == label for output, label in pairs) / len(test["text"])

    assert right(Linear.fit(train["text"], train["label"])) >= 0.91
    assert right(Neighbour.fit(train["text"], train["label"])) >= 0.83
