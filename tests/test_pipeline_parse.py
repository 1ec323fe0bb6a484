import json
import math

import pytest

from understudy.data.rows import Answer, Rejected, Token
from understudy.pipeline.parse import label_probabilities, parse, same, vote_shares
from understudy.pipeline.recipe import JobRecipe

LABELS = ["billing", "card_arrival", "card_linking", "other"]
INVOICE = {
    "type": "object",
    "properties": {"total": {"type": "number"}, "vendor": {"type": "string"}},
    "required": ["total"],
    "additionalProperties": False,
}


def job(**task) -> JobRecipe:
    return JobRecipe.model_validate(
        {
            "name": "t",
            "task": {"instruction": "?", "unlabeled": "pool.jsonl", **task},
            "teachers": {"lead": {"kind": "table", "model": "t.jsonl"}},
        }
    )


def read(text: str, recipe: JobRecipe, finish: str = "stop"):
    return parse(Answer("p", text, finish), recipe)


CLASSIFY = job(kind="classify", labels=LABELS)
EXTRACT = job(kind="extract", schema=INVOICE)
GENERATE = job(kind="generate")


@pytest.mark.parametrize(
    "said",
    [
        "card_arrival",
        " card_arrival\n",
        "Card Arrival",
        "CARD ARRIVAL.",
        "card-arrival",
        "**card_arrival**",
        "`card_arrival`",
        '"card_arrival"',
        "'card_arrival'",
        "- card_arrival",
        "Label: card_arrival",
        "label:card_arrival",
        "Answer: **Card arrival**",
        "card_arrival\n\nThe customer asks when the card comes.",
        "```\ncard_arrival\n```",
        "```text\ncard_arrival\n```",
        '{"label": "card_arrival"}',
        '["card_arrival"]',
        '```json\n{"label": "Card Arrival"}\n```',
        '{\n  "intent": "card_arrival"\n}',
    ],
)
def test_a_label_is_read_through_what_models_put_around_it(said):
    assert read(said, CLASSIFY) == "card_arrival"


@pytest.mark.parametrize(
    "said",
    [
        "",
        "...",
        "card",
        "card_arrival or card_linking",
        "The label is card_arrival",
        "I would say: billing",
        '{"label": "billing", "second": "other"}',
        '["billing", "other"]',
        "null",
        "{}",
        '{"label": null}',
        '{"label": {"name": "billing"}}',
        "9" * 5000,
        "[" * 100_000,
        '{"label": ' * 50_000,
        "\x00",
    ],
)
def test_what_is_no_label_is_rejected_with_what_was_said(said):
    assert read(said, CLASSIFY) == Rejected("p", "not_a_label", said[:200])


def test_labels_of_the_same_words_are_told_apart_by_their_signs_or_not_at_all():
    recipe = job(kind="classify", labels=["C", "C++", "C#"])
    for said, label in {"C": "C", "C++": "C++", '"C#"': "C#", "Label: C++": "C++", "**C#**": "C#"}.items():
        assert read(said, recipe) == label
    assert isinstance(read("(c)", recipe), Rejected)
    assert isinstance(read("c++", recipe), Rejected)


def test_labels_without_a_word_are_not_what_an_empty_answer_means():
    recipe = job(kind="classify", labels=["+", "-"])
    assert read("-", recipe) == "-"
    assert read(" + ", recipe) == "+"
    for said in ("", "?", "!", "--"):
        assert isinstance(read(said, recipe), Rejected)


def test_labels_that_are_numbers_are_read_from_json_too():
    recipe = job(kind="classify", labels=["1", "2", "true"])
    assert read("1", recipe) == "1"
    assert read('{"stars": 2}', recipe) == "2"
    assert read('{"spam": true}', recipe) == "true"


@pytest.mark.parametrize(
    "said",
    ['{"total": 3, "vendor": "x"}', '```json\n{"vendor": "x", "total": 3}\n```', '\n {"total":3,"vendor":"x"} '],
)
def test_an_object_is_read_into_one_spelling(said):
    assert read(said, EXTRACT) == '{"total": 3, "vendor": "x"}'


REJECTED = {
    "no json": ("not_json", "Expecting value in no json"),
    '{"total": 3': ("not_json", "Expecting ',' delimiter in {\"total\": 3"),
    '{"total": NaN}': ("not_json", 'NaN is not JSON in {"total": NaN}'),
    '{"total": -Infinity}': ("not_json", '-Infinity is not JSON in {"total": -Infinity}'),
    '{"total": "3"}': ("not_by_schema", "total: '3' is not of type 'number'"),
    '{"vendor": "x"}': ("not_by_schema", "the object: 'total' is a required property"),
    '{"total": 3, "vat": 1}': (
        "not_by_schema",
        "the object: Additional properties are not allowed ('vat' was unexpected)",
    ),
    "3": ("not_by_schema", "the object: 3 is not of type 'object'"),
}


@pytest.mark.parametrize("said", REJECTED)
def test_what_is_not_by_the_schema_is_rejected_with_the_reason(said):
    reason, evidence = REJECTED[said]
    assert read(said, EXTRACT) == Rejected("p", reason, evidence)


@pytest.mark.parametrize(
    "said", ["[" * 100_000, '{"total": ' + "9" * 5000 + "}", '{"total": ' * 2000 + "1" + "}" * 2000]
)
def test_json_that_cannot_be_held_is_rejected_and_stops_nothing(said):
    answer = read(said, EXTRACT)
    assert isinstance(answer, Rejected)
    assert answer.reason in ("not_json", "not_by_schema")
    assert len(answer.evidence) < 400


def test_an_answer_that_ran_out_of_tokens_is_cut_short_and_not_wrong():
    assert read('{"total": 3', EXTRACT, "length").reason == "cut_short"
    assert read("half a sen", GENERATE, "length") == Rejected("p", "cut_short", "half a sen")


def test_free_text_is_taken_as_it_is_and_nothing_is_no_text():
    assert read("  Hello,\n world \n", GENERATE) == "Hello,\n world"
    assert read(" \n", GENERATE) == Rejected("p", "empty")


def test_two_outputs_are_the_same_by_the_tasks_own_measure():
    assert same("billing", "billing", CLASSIFY)
    assert not same("billing", "Billing", CLASSIFY)
    assert same('{"a": 1, "b": [2.0]}', '{"b":[2],"a":1}', EXTRACT)
    assert not same('{"a": 1}', '{"a": 2}', EXTRACT)
    assert not same("not json", '{"a": 2}', EXTRACT)
    assert same("It's late!", "it s LATE", GENERATE)
    assert not same("late", "later", GENERATE)


def first(token: str, logprob: float, *top: tuple[str, float], text: str = "billing") -> Answer:
    return Answer("p", text, tokens=(Token(token, logprob, top), Token("rest", -0.1)))


def told(answer: Answer, labels=LABELS):
    probs, evidence = label_probabilities(answer, labels)
    if probs is not None:
        assert list(probs) == list(labels)
        assert math.isclose(sum(probs.values()), 1, abs_tol=1e-12)
        assert min(probs.values()) >= 0
    return probs, evidence


def test_exact_scores_are_taken_as_they_are():
    scores = {label: math.log(p) for label, p in zip(LABELS, (0.7, 0.1, 0.15, 0.05), strict=True)}
    probs, evidence = told(Answer("p", "billing", scores=scores))
    assert evidence == "scored"
    assert probs == pytest.approx({"billing": 0.7, "card_arrival": 0.1, "card_linking": 0.15, "other": 0.05})


def test_alternatives_that_are_whole_labels_become_probabilities_and_the_rest_is_spread():
    top = (("billing", math.log(0.6)), (" other", math.log(0.2)))
    probs, evidence = told(first("billing", math.log(0.6), *top))
    assert evidence == "logprobs"
    assert probs == pytest.approx({"billing": 0.6, "card_arrival": 0.1, "card_linking": 0.1, "other": 0.2})


def test_alternatives_that_begin_one_label_alone_count_for_it_and_add_up():
    top = (("bill", math.log(0.5)), (" bil", math.log(0.2)), ("oth", math.log(0.3)))
    probs, _ = told(first("bill", math.log(0.5), *top))
    assert probs == pytest.approx({"billing": 0.7, "card_arrival": 0, "card_linking": 0, "other": 0.3})


def test_a_beginning_that_labels_share_tells_nothing():
    assert told(first("card", math.log(0.9), ("card", math.log(0.9)), ("bill", math.log(0.1)))) == (None, "hard")


def test_a_little_mass_on_what_is_shared_or_foreign_is_borne():
    top = (("bill", math.log(0.99)), ("card", math.log(0.004)), ("The", math.log(0.004)))
    probs, evidence = told(first("bill", math.log(0.99), *top))
    assert evidence == "logprobs"
    assert max(probs, key=probs.__getitem__) == "billing"


def test_a_label_that_begins_another_tells_nothing():
    labels = ["card", "card_arrival", "other"]
    answer = first("card", math.log(0.95), ("card", math.log(0.95)), ("other", math.log(0.05)), text="card_arrival")
    assert told(answer, labels) == (None, "hard")


@pytest.mark.parametrize(
    "answer",
    [
        Answer("p", "billing"),
        Answer("p", "billing", tokens=(Token("billing", -0.1),)),
        first("The", -0.1, ("The", -0.1), ("billing", -3.0)),
        first("**", 0.0, ("**", 0.0)),
        first("\n", 0.0, ("\n", 0.0)),
        first("", 0.0, ("", 0.0)),
        first("billing", -9999.0, *((label, -9999.0) for label in ("billing", "card_a", "card_l", "other"))),
        Answer("p", "billing", scores={"billing": 0.0}),
    ],
)
def test_what_tells_no_probabilities_leaves_a_hard_label(answer):
    assert told(answer) == (None, "hard")


def test_alternatives_above_certainty_still_make_probabilities():
    probs, _ = told(first("billing", 0.0, ("billing", 0.0), ("other", 5000.0)))
    assert probs == pytest.approx({"billing": 0.5, "card_arrival": 0, "card_linking": 0, "other": 0.5})


def test_what_was_read_is_json_again_for_any_script():
    said = json.dumps({"total": 1.5, "vendor": "Müller \N{GRINNING FACE}"})
    assert read(said, EXTRACT) == '{"total": 1.5, "vendor": "Müller \N{GRINNING FACE}"}'


KEYS = {"A": "billing", "B": "card_arrival", "C": "card_linking", "D": "other"}


def keyed(*top: tuple[str, float]) -> Answer:
    """An answer whose first token has these alternatives, as probabilities."""
    logs = tuple((text, math.log(share)) for text, share in top)
    return Answer("p", top[0][0], tokens=(Token(*logs[0], logs),))


def test_the_alternatives_of_a_key_are_the_probabilities_of_the_labels():
    probs, evidence = label_probabilities(keyed(("B", 0.7), (" A", 0.2), ("C", 0.06), ("D", 0.04)), LABELS, KEYS)

    assert evidence == "keys"
    assert probs == pytest.approx({"billing": 0.2, "card_arrival": 0.7, "card_linking": 0.06, "other": 0.04})


def test_what_the_named_keys_leave_is_spread_over_the_others():
    probs, _ = label_probabilities(keyed(("B", 0.8), ("A", 0.1), ("The", 0.05)), LABELS, KEYS)

    assert probs == pytest.approx({"billing": 0.1, "card_arrival": 0.8, "card_linking": 0.05, "other": 0.05})


def test_an_answer_that_begins_in_another_way_as_a_rule_tells_no_probabilities():
    assert label_probabilities(keyed(("The", 0.6), ("B", 0.3)), LABELS, KEYS) == (None, "hard")


@pytest.mark.parametrize("said", ["B", " B.", "(B)", "**B**", "card_arrival", "Label: card_arrival"])
def test_a_letter_is_read_as_its_label_and_a_label_as_itself(said):
    recipe = JobRecipe.model_validate(
        {
            "name": "t",
            "task": {"kind": "classify", "instruction": "?", "unlabeled": "pool.jsonl", "labels": LABELS},
            "teachers": {"lead": {"kind": "openai", "model": "m"}},
            "label": {"keys": True, "logprobs": 4},
        }
    )

    assert read(said, recipe) == "card_arrival"


def test_votes_leave_every_label_possible_and_sum_to_one():
    shares = vote_shares({"billing": 3, "other": 1}, LABELS)

    assert shares == pytest.approx({"billing": 0.65, "card_arrival": 0.05, "card_linking": 0.05, "other": 0.25})
