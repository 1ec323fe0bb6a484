"""distilabel's Tasks over our teachers: a contract per Task, and what no window, fault or user may change."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from pydantic import BaseModel

from understudy.data.errors import BadInput, BudgetReached, TeacherUnreachable, UnderstudyError
from understudy.data.ledger import Ledger
from understudy.data.rows import Answer, Example, Failed, Message, Prompt, Rejected, Source
from understudy.data.sides import Split, side_of
from understudy.data.storage import LocalStorage
from understudy.data.teacher import Sampling
from understudy.teachers.distilabel import (
    Candidate,
    Output,
    TeacherLLM,
    arriving,
    best_rated,
    classify,
    evolve,
    magpie,
    run_task,
    write_labelled,
)
from understudy.teachers.distilabel.library import (
    EvolInstruct,
    Magpie,
    Task,
    TextClassification,
    UltraFeedback,
)
from understudy.teachers.embedded import FOLDER
from understudy.teachers.kind import Price
from understudy.teachers.recorded import RecordedTeacher, Spend
from understudy.teachers.scripted import ScriptedTeacher
from understudy.teachers.transformers import TransformersTeacher

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file .*distilabel:ResourceWarning")

WARM = Sampling(temperature=1.0, max_tokens=64)
DESK = {"system": "You answer for a parcel service.", "split": Split(), "gold": False}
LABELS = {"billing": "invoices, refunds", "delivery": "where a parcel is", "other": ""}
SOURCES = [Source(f"s{i}", f"where is parcel {i}", f"root{i % 3}", "train", "seed", "delivery") for i in range(12)]


class Listener(ScriptedTeacher):
    """Keeps the prompts it was asked."""

    def __init__(self, reply: Callable[[str], str | Answer | Failed], **fields) -> None:
        super().__init__(reply, **fields)
        self.prompts: list[tuple[Prompt, Sampling]] = []

    async def answer(self, prompt: Prompt, sampling: Sampling) -> Answer | Failed:
        self.prompts.append((prompt, sampling))
        said = await super().answer(prompt, sampling)
        return replace(said, prompt_id=prompt.id) if isinstance(said, Answer) else said


@pytest.fixture
def recorded(tmp_path):
    """Puts the ledger of this test before a teacher; each call is a run of its own."""
    opened: list[Ledger] = []

    def record(teacher: ScriptedTeacher, **fields) -> RecordedTeacher:
        while opened:
            opened.pop().close()
        opened.append(Ledger(LocalStorage(tmp_path)))
        return RecordedTeacher(
            teacher, opened[-1], fields.pop("spend", Spend()), run="r", price=fields.pop("price", None)
        )

    yield record
    while opened:
        opened.pop().close()


def collect(rows) -> list:
    async def all_of_them() -> list:
        return [row async for row in rows]

    return asyncio.run(all_of_them())


def by_id(rows: Iterable) -> list:
    return sorted(rows, key=lambda row: row.id)


def run(task: Task, rows: Iterable[dict], **window) -> list:
    return collect(run_task(task, [Candidate(f"c{i}", row, i) for i, row in enumerate(rows)], **window))


def asked_of(text: str) -> str:
    """What stands in an EvolInstruct prompt as the prompt to rewrite."""
    return text.partition("Prompt#:\n")[2].partition("Prompt#:")[0].partition("#")[0].strip()


def rewriting(text: str) -> str:
    """A reply in the form that EvolInstruct reads, which says how it was asked to rewrite."""
    return f"#Rewritten Prompt#: {len(text)} {text[-90:].split('#')[0]}".strip() + " at once"


def labelling(text: str) -> str:
    return json.dumps({"labels": "delivery" if "parcel" in text else "other"})


def writing(text: str) -> str:
    asked = f"{len(text)} letters"
    return json.dumps({"input_text": f"a new text, for {asked}", "label": "billing", "misleading_label": "other"})


def musing(begun: str) -> str:
    assert begun == ""
    return " where is my parcel\n"


def rating(*ratings: object) -> str:
    return "\n\n".join(
        f"#### Output for Text {i}\nRating: {r}\nRationale: because {r}" for i, r in enumerate(ratings, 1)
    )


def rivals(*outputs: str) -> list[Example]:
    return [Example("e", "where is my parcel", output, "root", "train", "unlabeled") for output in outputs]


# one contract per Task: our row in, our row out, and the same from the ledger


def twice(recorded, reply: Callable[[str], str], strategy: Callable, items: list) -> list:
    """The rows of a strategy, after a second run gave the same without a request."""
    first, second = ScriptedTeacher(reply), ScriptedTeacher(reply)
    rows = by_id(collect(arriving(items, strategy(recorded(first)), window=4)))
    again = by_id(collect(arriving(items, strategy(recorded(second)), window=4)))
    assert again == rows
    assert first.asked
    assert second.asked == []
    return rows


def test_evol_instruct_rewrites_an_input_and_keeps_its_root_and_side(recorded):
    rows = twice(recorded, rewriting, partial(evolve, sampling=WARM, evolutions=2), SOURCES)

    assert len({row.id for row in rows}) == 12
    assert {row.root for row in rows} == {"root0", "root1", "root2"}
    for row in rows:
        assert (row.side, row.origin, row.output) == ("train", "generated", None)
        assert row.input.endswith("at once")
        assert "Prompt#" not in row.input


def test_text_classification_gives_an_input_one_of_the_labels(recorded):
    rows = twice(recorded, labelling, partial(classify, sampling=WARM, labels=LABELS, context="Which team?"), SOURCES)

    expected = [Example(one.id, one.input, "delivery", one.root, "train", "seed") for one in SOURCES]
    assert rows == by_id(expected)


def test_generate_text_classification_data_writes_an_input_with_its_label(recorded):
    strategy = partial(write_labelled, sampling=WARM, instruction="Which team should answer?", labels=LABELS)
    rows = twice(recorded, writing, strategy, SOURCES)

    assert [row.output for row in rows] == ["billing"] * 12
    assert all(row.input.startswith("a new text") and row.origin == "generated" for row in rows)
    assert {row.root for row in rows} == {"root0", "root1", "root2"}


def test_ultra_feedback_keeps_the_output_that_is_rated_best(recorded):
    rows = twice(recorded, lambda _: rating(2, 5, 5), partial(best_rated, sampling=WARM), [rivals("a", "b", "c")])

    assert rows == rivals("b")


def test_an_output_alone_goes_where_it_is_rated_too_low():
    strategy = best_rated(ScriptedTeacher(lambda _: rating(3)), WARM, least=4)
    assert collect(arriving([rivals("a")], strategy)) == [Rejected("e", "low_rating", "3: because 3")]


def test_magpie_writes_an_input_from_a_system_prompt_and_an_open_turn(recorded):
    rows = twice(recorded, musing, partial(magpie, sampling=WARM, **DESK), range(40))

    assert len({row.id for row in rows}) == 40
    assert {row.side for row in rows} == {"train", "test", "calibration", "validation"}
    for row in rows:
        assert row == Source(row.id, "where is my parcel", row.id, side_of(row.id, Split(), gold=False), "generated")


# what a strategy asks


def test_the_labels_and_their_meanings_are_asked_for_as_a_schema_too():
    teacher = Listener(labelling)
    collect(arriving(SOURCES[:1], classify(teacher, WARM, labels=LABELS, context="Which team?")))

    ((prompt, sampling),) = teacher.prompts
    assert sampling == WARM
    assert [message.role for message in prompt.messages] == ["system", "user"]
    assert '"billing",  # invoices, refunds' in prompt.messages[1].content
    schema = json.loads(prompt.schema)
    assert schema["properties"]["labels"]["enum"] == ["billing", "delivery", "other", "Unclassified"]
    assert schema["additionalProperties"] is False


def test_what_labels_or_judges_asks_for_the_first_draw_and_what_writes_for_one_of_its_own():
    def draws(strategy: Callable, reply: Callable[[str], str], items: list) -> list[int]:
        teacher = Listener(reply)
        collect(arriving(items, strategy(teacher, WARM)))
        return [prompt.sample for prompt, _ in teacher.prompts]

    assert draws(partial(classify, labels=LABELS, context="?"), labelling, SOURCES) == [0] * 12
    assert draws(best_rated, lambda _: rating(1, 2), [rivals("a", "b")]) == [0]
    written = draws(partial(write_labelled, instruction="?", labels=LABELS), writing, SOURCES)
    assert len(set(written)) == 12
    assert all(0 <= draw < 2**31 for draw in written)
    assert written == draws(partial(write_labelled, instruction="?", labels=LABELS), writing, SOURCES)
    assert not set(written) & set(
        draws(partial(write_labelled, instruction="?", labels=LABELS, seed=1), writing, SOURCES)
    )


def test_magpie_asks_for_a_draw_of_its_own_per_candidate_and_for_nothing_but_the_users_turn():
    def asked(**fields) -> list[Prompt]:
        teacher = Listener(musing)
        collect(arriving(range(12), magpie(teacher, WARM, **(DESK | fields))))
        return [prompt for prompt, _ in teacher.prompts]

    system, user = Message("system", DESK["system"]), Message("user", "")
    assert {(prompt.messages, prompt.open) for prompt in asked()} == {((system, user), True)}
    assert {prompt.messages for prompt in asked(system="")} == {(user,)}
    draws = [prompt.sample for prompt in asked()]
    assert len(set(draws)) == 12
    assert all(0 <= draw < 2**31 for draw in draws)
    assert not set(draws) & {prompt.sample for prompt in asked(seed=1)}
    assert not {prompt.id for prompt in asked()} & {prompt.id for prompt in asked(system="")}


def test_magpie_without_a_temperature_is_refused():
    with pytest.raises(BadInput, match="magpie: temperature = 0 writes the same input for every candidate; set one"):
        magpie(ScriptedTeacher(musing), Sampling(), **DESK)


# several in flight, and the same rows


@pytest.mark.parametrize(
    ("strategy", "reply"),
    [
        (partial(evolve, evolutions=3), rewriting),
        (partial(write_labelled, instruction="Which team?", labels=LABELS), writing),
    ],
)
def test_the_same_seed_draws_the_same_at_any_window_and_in_any_order(strategy, reply):
    def rows(window: int, sources: list[Source], seed: int = 0) -> list:
        def noisy(text: str) -> str:  # others draw from the same generators meanwhile
            random.random()
            np.random.random()
            return reply(text)

        return by_id(collect(arriving(sources, strategy(ScriptedTeacher(noisy), WARM, seed=seed), window=window)))

    alone = rows(1, SOURCES)
    assert alone == rows(8, SOURCES[::-1])
    assert len({row.input for row in alone}) > 1
    assert [row.input for row in alone] != [row.input for row in rows(8, SOURCES, seed=1)]


def test_a_window_of_rows_is_in_flight_and_they_come_as_they_are_done():
    teacher = ScriptedTeacher(labelling, delay=0.02)
    rows = collect(arriving(SOURCES, classify(teacher, WARM, labels=LABELS, context="?"), window=5))

    assert teacher.most_in_flight == 5
    assert {row.id for row in rows} == {source.id for source in SOURCES}


def test_a_row_is_there_before_the_next_is_taken_from_the_input():
    taken = []

    def endless() -> Iterable[Source]:
        for number in range(10**6):
            taken.append(number)
            yield replace(SOURCES[0], id=f"n{number}")

    async def two() -> None:
        rows = arriving(endless(), classify(ScriptedTeacher(labelling), WARM, labels=LABELS, context="?"), window=3)
        async for row in rows:
            if row.id == "n1":
                break
        await rows.aclose()

    asyncio.run(two())
    assert len(taken) <= 5


def test_who_draws_after_a_task_goes_on_where_they_were():
    random.seed(5)
    np.random.seed(5)
    expected = [random.random(), np.random.random(), random.random(), np.random.random()]
    random.seed(5)
    np.random.seed(5)
    drawn = [random.random(), np.random.random()]

    collect(arriving(SOURCES, evolve(ScriptedTeacher(rewriting), WARM)))
    collect(arriving(SOURCES, write_labelled(ScriptedTeacher(writing), WARM, instruction="?", labels=LABELS)))

    assert [*drawn, random.random(), np.random.random()] == expected


def test_a_task_that_draws_from_elsewhere_is_refused():
    class Restless(EvolInstruct):
        def format_input(self, input: str) -> list[dict[str, str]]:
            return [{"role": "user", "content": f"{uuid.uuid4()} {input}"}]

    task = Restless(llm=TeacherLLM(teacher=ScriptedTeacher(rewriting)), num_evolutions=1)
    with pytest.raises(
        BadInput, match=r"row c0: the Task asks something else .* from `random` and `numpy.random` only"
    ):
        run(task, [{"instruction": "x"}])


# faults


@pytest.mark.parametrize(
    ("strategy", "reply"),
    [
        (partial(evolve, evolutions=2), rewriting),
        (partial(classify, labels=LABELS, context="?"), labelling),
        (partial(write_labelled, instruction="?", labels=LABELS), writing),
    ],
)
def test_a_prompt_that_fails_costs_its_own_row(recorded, strategy, reply):
    def failing(text: str) -> str | Failed:
        return Failed("p", "refused", "flagged") if "parcel 7" in text else reply(text)

    rows = collect(arriving(SOURCES, strategy(recorded(ScriptedTeacher(failing)), WARM)))
    failed = [row for row in rows if isinstance(row, Failed)]

    assert [(row.kind, row.message) for row in failed] == [("refused", "flagged")]
    assert len([row for row in rows if isinstance(row, Source | Example)]) == 11
    assert len({row.id for row in rows}) == 12


@pytest.mark.parametrize(
    "said",
    [
        rating(4),
        rating(4, 5, 3),
        "Here are my ratings.\n\n" + rating(4, 5),
        rating(4, "None"),
        rating(4, "good"),
        rating(4, 9),
        "I cannot rate this.",
    ],
    ids=["too_few", "too_many", "preamble", "none", "words", "out_of_range", "refusal"],
)
def test_a_judge_whose_ratings_are_not_one_per_text_is_rejected_with_what_it_said(said):
    rows = collect(arriving([rivals("a", "b")], best_rated(ScriptedTeacher(lambda _: said), WARM)))
    assert rows == [Rejected("e", "unparsable", said[:200])]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ('{"labels": "shipping"}', "not_a_label"),
        ('{"labels": "Unclassified"}', "not_a_label"),
        ('{"labels": ["billing"]}', "unparsable"),
        ('{"labels": {"billing": 1}}', "not_a_label"),
        ('{"labels": 3}', "not_a_label"),
        ('{"labels": " "}', "empty"),
        ('{"labels": null}', "unparsable"),
        ('{"label": "billing"}', "unparsable"),
        ('["billing"]', "unparsable"),
        ("billing", "unparsable"),
    ],
)
def test_a_label_outside_the_set_or_out_of_form_is_rejected_with_what_was_said(said, reason):
    rows = collect(arriving(SOURCES[:1], classify(ScriptedTeacher(lambda _: said), WARM, labels=LABELS, context="?")))
    assert rows == [Rejected("s0", reason, said)]


def test_json_in_a_fence_is_read():
    teacher = ScriptedTeacher(lambda _: '```json\n{"labels": "billing"}\n```\n')
    (row,) = collect(arriving(SOURCES[:1], classify(teacher, WARM, labels=LABELS, context="?")))
    assert row.output == "billing"


def test_a_reply_does_not_write_into_the_columns_of_its_row():
    task = TextClassification(llm=TeacherLLM(teacher=ScriptedTeacher(lambda _: '{"labels": "a", "text": "other"}')))
    (row,) = run(task, [{"text": "mine"}])
    assert row.rows[0]["text"] == "mine"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ({"input_text": "x", "label": "shipping", "misleading_label": "other"}, "not_a_label"),
        ({"input_text": 5, "label": "billing", "misleading_label": "other"}, "not_a_label"),
        ({"input_text": "x", "label": ["billing"], "misleading_label": "other"}, "not_a_label"),
        ({"input_text": "x", "label": "billing"}, "unparsable"),
        ({"input_text": "", "label": "billing", "misleading_label": "other"}, "empty"),
    ],
)
def test_a_written_example_without_a_label_of_the_set_is_rejected(reply, reason):
    teacher = ScriptedTeacher(lambda _: json.dumps(reply))
    (row,) = collect(arriving(SOURCES[:1], write_labelled(teacher, WARM, instruction="?", labels=LABELS)))
    assert row.reason == reason


@pytest.mark.parametrize("fence", ["{}", "```json\n{}\n```"], ids=["bare", "fenced"])
def test_what_a_model_wrote_is_never_run(tmp_path, fence):
    witness = tmp_path / "ran"
    said = f'{{"input_text": str(open("{witness}", "w")), "label": "billing", "misleading_label": "other"}}'
    teacher = ScriptedTeacher(lambda _: fence.format(said))
    (row,) = collect(arriving(SOURCES[:1], write_labelled(teacher, WARM, instruction="?", labels=LABELS)))
    assert row.reason == "unparsable"
    assert not witness.exists()


def test_escaped_characters_and_json_words_are_read_as_json():
    said = r'{"input_text": "\ud83d\udc4d good", "label": "billing", "misleading_label": "other", "sure": true}'
    strategy = write_labelled(ScriptedTeacher(lambda _: said), WARM, instruction="?", labels=LABELS)
    (row,) = collect(arriving(SOURCES[:1], strategy))
    assert row.input == "\N{THUMBS UP SIGN} good"


def test_an_answer_that_was_cut_short_is_rejected_before_more_is_asked():
    teacher = ScriptedTeacher(lambda _: Answer("p", "Prompt#: where is", "length"))
    (row,) = collect(arriving(SOURCES[:1], evolve(teacher, WARM, evolutions=3)))

    assert (row.reason, row.evidence) == ("cut_short", "Prompt#: where is")
    assert len(teacher.asked) == 1


def test_a_rewriting_that_says_nothing_is_rejected():
    (row,) = collect(arriving(SOURCES[:1], evolve(ScriptedTeacher(lambda _: "#Rewritten Prompt#:  "), WARM)))
    assert (row.reason, row.evidence) == ("empty", "#Rewritten Prompt#:  ")


@pytest.mark.parametrize(
    ("said", "row"),
    [
        (Answer("p", "where is my par", "length"), ("cut_short", "where is my par")),
        (" \n", ("empty", " \n")),
        (Failed("p", "refused", "flagged"), ("refused", "flagged")),
    ],
    ids=["cut_short", "empty", "failed"],
)
def test_a_turn_that_was_not_written_costs_its_own_row(said, row):
    (fault,) = collect(arriving([7], magpie(ScriptedTeacher(lambda _: said), WARM, **DESK)))

    found = (fault.kind, fault.message) if isinstance(fault, Failed) else (fault.reason, fault.evidence)
    assert found == row


def test_a_row_without_the_columns_of_the_task_is_a_failed_row():
    task = EvolInstruct(llm=TeacherLLM(teacher=ScriptedTeacher(rewriting)), num_evolutions=1)
    first, second = by_id(run(task, [{"text": "x"}, {"instruction": "x"}]))

    message = "evol_instruct_0 cannot make a prompt of the row: KeyError: 'instruction'"
    assert first == Failed("c0", "template", message)
    assert isinstance(second, Output)


def test_a_task_that_raises_over_a_reply_is_a_rejected_row():
    class Picky(EvolInstruct):
        def format_output(self, instructions: list[str], answers: None = None) -> dict[str, str]:
            raise ValueError("no rewriting in it")

    task = Picky(llm=TeacherLLM(teacher=ScriptedTeacher(rewriting)), num_evolutions=1)
    assert run(task, [{"instruction": "x"}]) == [Rejected("c0", "unparsable", "ValueError: no rewriting in it")]


def test_a_teacher_that_cannot_be_reached_ends_the_run():
    def dead(text: str) -> str:
        if "parcel 3" in text:
            raise TeacherUnreachable("teacher lead: connection refused; start the server")
        return labelling(text)

    with pytest.raises(TeacherUnreachable, match="connection refused"):
        collect(arriving(SOURCES, classify(ScriptedTeacher(dead), WARM, labels=LABELS, context="?"), window=4))


def test_where_the_budget_is_reached_what_is_in_flight_is_recorded(recorded):
    teacher = ScriptedTeacher(labelling, delay=0.02)
    price = Price(input=0.0, output=1.0)
    spend = Spend(cap=3.5 * WARM.max_tokens / 1e6)
    model = recorded(teacher, price=price, spend=spend)

    with pytest.raises(BudgetReached, match=r"raise budget\.usd and run again"):
        collect(arriving(SOURCES, classify(model, WARM, labels=LABELS, context="?"), window=8))
    assert len(model.ledger) == len(teacher.asked) == 3


# a Task of the user's own


def test_any_task_gives_a_row_per_generation_each_a_draw_of_its_own():
    from distilabel.steps.tasks import TextGeneration

    teacher = Listener(str.upper)
    task = TextGeneration(llm=TeacherLLM(teacher=teacher), num_generations=3)
    candidates = [Candidate("c", {"instruction": "say hi"}, seed=70)]
    (row,) = collect(run_task(task, candidates))

    assert [one["generation"] for one in row.rows] == ["SAY HI"] * 3
    assert [prompt.sample for prompt, _ in teacher.prompts] == [70, 71, 72]
    assert [prompt.id for prompt, _ in teacher.prompts] == ["c"] * 3
    assert row.rows[0]["model_name"] == "scripted@main"


def conversing(teacher: Listener, **fields) -> list[tuple[str, str]]:
    """What Magpie makes of one candidate, as turns."""
    (row,) = run(Magpie(llm=TeacherLLM(teacher=teacher), **fields), [{}])
    return [(turn["role"], turn["content"]) for turn in row.rows[0]["conversation"]]


def test_magpie_converses_with_an_open_turn_for_the_user_and_a_whole_one_for_the_assistant():
    teacher = Listener(lambda begun: begun.upper() or "hello")
    turns = conversing(teacher, n_turns=2, end_with_user=True, system_prompt="Be brief.")

    assert turns == [("user", "hello"), ("assistant", "HELLO"), ("user", "hello")]
    assert [prompt.open for prompt, _ in teacher.prompts] == [True, False, True]
    assert [message.role for message in teacher.prompts[-1][0].messages] == ["system", "user", "assistant", "user"]


def test_magpie_generator_gives_every_row_a_draw_of_its_own_in_every_batch():
    from distilabel.steps.tasks import MagpieGenerator

    teacher = Listener(lambda begun: begun or "hello")
    generator = MagpieGenerator(llm=TeacherLLM(teacher=teacher), num_rows=4, batch_size=2)
    generator.load()
    rows = [row for _, (batch, _) in zip(range(2), generator.process(), strict=False) for row in batch]

    assert [(row["instruction"], row["response"]) for row in rows] == [("hello", "hello")] * 4
    opened = [prompt.sample for prompt, _ in teacher.prompts if prompt.open]
    assert opened == [0, 1, 2, 3]


def test_the_pre_query_template_is_the_teachers_own_and_another_is_refused():
    with pytest.raises(
        BadInput, match="TeacherLLM: magpie_pre_query_template is given, and where a user's turn begins"
    ):
        TeacherLLM(teacher=ScriptedTeacher(str), magpie_pre_query_template="llama3")


@pytest.mark.slow
def test_magpie_has_the_teacher_that_ships_write_a_users_turn(recorded):
    strategy = partial(magpie, sampling=Sampling(temperature=0.7, max_tokens=64), **DESK | {"system": ""})
    teacher = TransformersTeacher(FOLDER)
    model = recorded(teacher)
    rows = collect(arriving(range(16), strategy(model)))
    asyncio.run(model.close())
    written = {row.input for row in rows if isinstance(row, Source)}

    assert model.spend.requests == 16
    assert len(written) > 8
    assert not [text for text in written if "<|" in text]
    assert by_id(rows) == by_id(collect(arriving(range(16), strategy(recorded(teacher)), window=1)))
    assert teacher.batches < 16


def test_columns_may_go_by_other_names():
    teacher = ScriptedTeacher(lambda _: rating(2, 3))
    names = {"input_mappings": {"instruction": "question", "generations": "answers"}}
    task = UltraFeedback(llm=TeacherLLM(teacher=teacher), **names, output_mappings={"ratings": "points"})
    (row,) = run(task, [{"question": "x", "answers": ["a", "b"]}])
    assert row.rows[0]["points"] == [2, 3]


def test_grouped_generations_are_checked_one_by_one():
    def task(said: str) -> UltraFeedback:
        llm = TeacherLLM(teacher=ScriptedTeacher(lambda _: said))
        return UltraFeedback(llm=llm, num_generations=2, group_generations=True)

    columns = {"instruction": "x", "generations": ["a", "b"]}
    assert run(task(rating(2, 3)), [columns])[0].rows[0]["ratings"] == [[2, 3], [2, 3]]
    assert run(task(rating(2)), [columns])[0].reason == "unparsable"


def test_a_candidate_stays_as_it_was_given():
    columns = {"instruction": "x", "nested": [1]}
    task = EvolInstruct(llm=TeacherLLM(teacher=ScriptedTeacher(rewriting)), num_evolutions=1)
    run(task, [columns])
    assert columns == {"instruction": "x", "nested": [1]}


def test_a_task_that_logs_about_its_rows_stays_silent(caplog):
    with caplog.at_level(logging.INFO):
        collect(arriving(SOURCES[:1], evolve(ScriptedTeacher(rewriting), WARM)))
        collect(arriving(SOURCES[:1], classify(ScriptedTeacher(lambda _: "[1]"), WARM, labels=LABELS, context="?")))
    assert caplog.records == []


def test_another_llm_or_a_task_without_rows_is_refused():
    from distilabel.models import OpenAILLM
    from distilabel.steps.tasks import EmbeddingTaskGenerator

    task = EvolInstruct(llm=OpenAILLM(model="m", api_key="k"), num_evolutions=1)
    with pytest.raises(BadInput, match="found EvolInstruct with OpenAILLM; expected a Task that takes rows, with a Te"):
        run(task, [])
    generator = EmbeddingTaskGenerator(llm=TeacherLLM(teacher=ScriptedTeacher(str)), category="text-matching-short")
    with pytest.raises(BadInput, match="run_task: found EmbeddingTaskGenerator with TeacherLLM"):
        run(generator, [])


# the LLM by itself

CHAT = [{"role": "system", "content": "be loud"}, {"role": "user", "content": "hello"}]


def test_a_failed_prompt_is_none_among_the_generations_with_the_tokens_of_the_others():
    def reply(text: str) -> Answer | Failed:
        return Failed("p", "refused", "no") if text == "bad" else Answer("p", text.upper(), "stop", 7, 3)

    llm = TeacherLLM(teacher=ScriptedTeacher(reply))
    first, second = llm.generate([CHAT, [{"role": "user", "content": "bad"}]], num_generations=2)

    assert first == {
        "generations": ["HELLO", "HELLO"],
        "statistics": {"input_tokens": [7, 7], "output_tokens": [3, 3]},
    }
    assert second == {
        "generations": [None, None],
        "statistics": {"input_tokens": [0, 0], "output_tokens": [0, 0]},
    }


def test_it_asks_with_the_parameters_and_the_messages_it_was_given():
    teacher = Listener(str.upper)
    TeacherLLM(teacher=teacher).generate([CHAT], num_generations=2, temperature=0.5, top_p=0.9, max_new_tokens=9)

    first, second = teacher.prompts
    assert first[1] == second[1] == Sampling(temperature=0.5, top_p=0.9, max_tokens=9)
    assert [(message.role, message.content) for message in first[0].messages] == [
        ("system", "be loud"),
        ("user", "hello"),
    ]
    assert (first[0].sample, second[0].sample) == (0, 1)


def test_many_threads_share_the_loop_of_the_caller(recorded):
    teacher = ScriptedTeacher(labelling, delay=0.05)
    model = recorded(teacher)

    async def main() -> list:
        task = TextClassification(
            llm=TeacherLLM(teacher=model, loop=asyncio.get_running_loop(), structured_output={"schema": {}}),
        )
        task.load()
        jobs = (asyncio.to_thread(lambda i=i: next(task.process([{"text": f"parcel {i}"}]))) for i in range(4))
        return await asyncio.gather(*jobs)

    assert [rows[0]["labels"] for rows in asyncio.run(main())] == ["delivery"] * 4
    assert teacher.most_in_flight > 1
    assert len(model.ledger) == 4


def test_without_a_loop_it_answers_in_any_thread_and_where_a_loop_runs(recorded):
    llm = TeacherLLM(teacher=recorded(ScriptedTeacher(str.upper, delay=0.01)))

    async def inside_a_loop() -> list:
        return llm.generate([CHAT])

    with ThreadPoolExecutor(4) as threads:
        outputs = [*threads.map(lambda _: llm.generate([CHAT]), range(8)), asyncio.run(inside_a_loop())]
    assert [output[0]["generations"] for output in outputs] == [["HELLO"]] * 9
    assert llm.teacher.spend.requests == 1


def test_a_loop_that_waits_for_the_call_or_does_not_run_is_refused():
    async def on_its_own_loop() -> None:
        TeacherLLM(teacher=ScriptedTeacher(str.upper), loop=asyncio.get_running_loop()).generate([CHAT])

    with pytest.raises(
        BadInput, match="the loop that should answer waits for this very call; use run_task, or asyncio"
    ):
        asyncio.run(on_its_own_loop())
    loop = asyncio.new_event_loop()
    with pytest.raises(BadInput, match="the loop that should answer is not running"):
        TeacherLLM(teacher=ScriptedTeacher(str.upper), loop=loop).generate([CHAT])
    loop.close()


def test_an_error_of_the_teacher_passes_through():
    def dead(_: str) -> str:
        raise UnderstudyError("ledger: cannot be written; free some space")

    with pytest.raises(UnderstudyError, match="free some space"):
        TeacherLLM(teacher=ScriptedTeacher(dead)).generate([CHAT])


class Colour(BaseModel):
    name: str


@pytest.mark.parametrize("schema", [Colour, Colour.model_json_schema()], ids=["class", "schema"])
def test_a_structured_output_is_the_schema_of_the_prompt(schema):
    teacher = Listener(lambda _: '{"name": "red"}')
    llm = TeacherLLM(teacher=teacher, structured_output={"schema": schema})
    llm.generate([CHAT, (CHAT, {"format": "json", "schema": {"type": "object"}})])

    first, second = (json.loads(prompt.schema) for prompt, _ in teacher.prompts)
    assert first == Colour.model_json_schema()
    assert second == {"type": "object"}


def test_a_structured_generation_asks_by_the_schema_of_its_row():
    from distilabel.steps.tasks import StructuredGeneration

    teacher = Listener(lambda _: '```\n{"name": "red"}\n```')
    structure = {"format": "json", "schema": Colour.model_json_schema()}
    task = StructuredGeneration(llm=TeacherLLM(teacher=teacher))
    (row,) = run(task, [{"instruction": "a colour", "structured_output": structure}])

    assert row.rows[0]["generation"] == '{"name": "red"}'
    assert json.loads(teacher.prompts[0][0].schema) == Colour.model_json_schema()


def test_a_structure_that_is_no_json_schema_is_refused():
    llm = TeacherLLM(teacher=ScriptedTeacher(str), structured_output={"format": "regex", "schema": "[a-z]+"})
    with pytest.raises(
        BadInput, match="has format 'regex' and a schema of type str; expected format 'json' and a JSON"
    ):
        llm.generate([CHAT])


def test_a_task_gets_the_structure_it_wants_without_outlines_or_instructor():
    teacher = Listener(labelling)
    (row,) = run(TextClassification(llm=TeacherLLM(teacher=teacher)), [{"text": "parcel"}])
    assert row.rows[0]["labels"] == "delivery"
    assert json.loads(teacher.prompts[0][0].schema)["required"] == ["labels"]


def test_a_parameter_out_of_bounds_is_refused_in_one_line():
    with pytest.raises(BadInput, match=r"^TeacherLLM: generation_kwargs: temperature = 3: "):
        TeacherLLM(teacher=ScriptedTeacher(str)).generate([CHAT], temperature=3)


def test_an_image_among_the_messages_is_refused():
    chat = [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]
    with pytest.raises(BadInput, match="an input is no chat of texts; expected turns, each with a role and a text"):
        TeacherLLM(teacher=ScriptedTeacher(str)).generate([chat])


def build(name: str) -> ScriptedTeacher:
    return ScriptedTeacher(str.upper, name=name)


def test_who_answers_is_part_of_what_a_pipeline_caches_by():
    def signature(teacher: object) -> str:
        return EvolInstruct(llm=TeacherLLM(teacher=teacher), num_evolutions=1).signature

    assert signature(build("a@1")) == signature(build("a@1")) != signature(build("a@2"))
    assert signature(partial(build, "a@1")) == signature(partial(build, "a@1")) != signature(partial(build, "a@2"))


def test_a_task_read_from_a_file_has_no_teacher_and_says_so():
    task = EvolInstruct(llm=TeacherLLM(teacher=build("a@1")), num_evolutions=1)
    again = EvolInstruct.from_dict(json.loads(json.dumps(task.dump())))
    with pytest.raises(BadInput, match=r"TeacherLLM: there is no teacher, .* give it `teacher`"):
        again.load()


# a Pipeline of the user's own, and what importing does

PIPELINE = """
import json, sys
from functools import partial
from pathlib import Path

from understudy.data.ledger import Ledger
from understudy.data.rows import Failed
from understudy.data.storage import LocalStorage
from understudy.teachers.distilabel import TeacherLLM
from understudy.teachers.recorded import RecordedTeacher, Spend
from understudy.teachers.scripted import ScriptedTeacher
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration


def reply(text):
    return Failed("p", "refused", "flagged") if text == "bad" else text.upper()


def teacher(root):
    return RecordedTeacher(ScriptedTeacher(reply), Ledger(LocalStorage(root)), Spend(), run="pipeline", price=None)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    for _ in range(2):
        with Pipeline("own", cache_dir=root / "cache") as pipeline:
            rows = LoadDataFromDicts(data=[{"instruction": text} for text in ("one", "bad", "two")])
            rows >> TextGeneration(llm=TeacherLLM(teacher=partial(teacher, root)))
        made = pipeline.run(use_cache=False)["default"]["train"]
    print(json.dumps({name: made[name][:] for name in ("generation", "model_name")}))
"""


def python(code: str, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run(
        [sys.executable, "-c", code, *args] if "\n" in code else [sys.executable, code, *args],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
def test_a_pipeline_of_distilabel_builds_the_teacher_and_its_ledger_in_the_process_of_its_step(tmp_path):
    script = tmp_path / "own.py"
    script.write_text(PIPELINE)
    done = python(str(script), str(tmp_path), HF_HOME=str(tmp_path / "hf"), HF_HUB_OFFLINE="1")

    assert done.returncode == 0, done.stderr
    said = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert said == {"generation": ["ONE", None, "TWO"], "model_name": ["scripted@main"] * 3}
    ledger = Ledger(LocalStorage(tmp_path))
    assert len(list(ledger.records())) == 2  # by two runs
    ledger.close()


def test_importing_says_nothing_and_leaves_the_traceback_hook_alone():
    code = "import sys\nimport understudy.teachers.distilabel\nassert sys.excepthook is sys.__excepthook__\n"
    done = python(code, PYTHONWARNINGS="error::UserWarning")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_nothing_else_imports_distilabel():
    code = (
        "import sys, understudy.jobs.cli, understudy.pipeline.run, understudy.teachers.config\n"
        "import understudy.teachers.recorded\n"
        "assert 'distilabel' not in sys.modules\n"
    )
    assert python(code).stderr == ""


def test_a_missing_distilabel_is_one_line_with_the_remedy():
    code = (
        "import sys\n"
        "sys.modules['distilabel'] = None\n"
        "from understudy.data.errors import BadInput\n"
        "try: import understudy.teachers.distilabel\n"
        "except BadInput as error: print(error)\n"
    )
    done = python(code)
    assert done.stdout.strip() == (
        "teachers.distilabel: there is no module 'distilabel.models'; run `pip install 'understudy[distilabel]'`"
    )
