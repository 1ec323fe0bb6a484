"""Personal data: what is found, what looks like it and is not, and that nothing of it stays anywhere."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from understudy.data.errors import BadInput
from understudy.data.pii import redacted, redacted_output
from understudy.data.rows import Answer, Example, Prompt, Token
from understudy.data.teacher import Sampling
from understudy.pipeline.context import Run
from understudy.pipeline.use import _private

from .endpoint import Endpoint, says
from .test_pipeline_stages import TEXTS, Job, asked, check_conservation, job, labels

DATASETS = Path(__file__).parents[2] / "shared" / "datasets"
PLANTED = {
    "email": "jo.smith+shop@mail.example.co.uk",
    "phone": "+49 30 901820",
    "iban": "DE89 3704 0044 0532 0130 00",
    "card": "4111 1111 1111 1111",
    "ip": "203.0.113.77",
}


def wide(text: str) -> str:
    """As keyboards of East Asia write it."""
    return "".join(chr(ord(char) + 0xFEE0) for char in text)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("write to jo.smith+x@mail.example.co.uk, please", "write to <email>, please"),
        ("ask o'brien@example.com.", "ask <email>."),
        ("call 415-555-2671 or (415) 555 2671", "call <phone> or <phone>"),
        ("ring me on 07911 123456 tonight", "ring me on <phone> tonight"),
        ("+33 6 12 34 56 78", "<phone>"),
        ("my iban is de89370400440532013000 thanks", "my iban is <iban> thanks"),
        ("card 4111-1111-1111-1111 exp 12/26", "card <card> exp 12/26"),
        ("from 203.0.113.77 and 2001:db8::ff00:42:8329", "from <ip> and <ip>"),
        ("ip:203.0.113.77, http://203.0.113.77/x", "ip:<ip>, http://<ip>/x"),
        (f"jörg@müller.de and {wide('jo@example.com')}", "<email> and <email>"),
        (f"card {wide('4111')}\u00a01111\u20111111 1111", "card <card>"),
        ("\u202a+49\u00a030\u00a0901820\u202c", "\u202a<phone>\u202c"),
        ("my phone number is 4155552671", "my phone number is <phone>"),
        ("Handynummer: 015112345678, tel 06 12 34 56 78", "Handynummer: <phone>, tel <phone>"),
        ("ssn 536-22-1234, cpf 529.982.247-25", "ssn <national-id>, cpf <national-id>"),
        ("dni 12345678z, nir 1 85 05 78 006 084 91", "dni <national-id>, nir <national-id>"),
        ("RSSMRA85T10A562S", "<national-id>"),
    ],
)
def test_what_has_the_form_of_personal_data_is_replaced(text, left):
    assert redacted(text)[0] == left


@pytest.mark.parametrize(
    "text",
    [
        "order 4155552671 of 2024-05-12 at 10:30",
        "tell me about 07911123456",
        "firmware version 1.2.3.4",
        "lunch@12.30 with jo@home",
        "IMEI 353918058347264, EAN 4006381333931, ISBN 978-3-16-148410-0",
        "ssn 000-12-3456, dni 12345678A",
        "from 07.09.2024-12.10.2024",
        "invoice 0044 0532 0130",
        "it cost 1,234,567.89 dollars, 12.50-13.99 each",
        "version 10.2.1 and ratio 1.2.3.4.5",
        "tracking 1Z999AA10123456784",
        "card 4111 1111 1111 1112",  # its check digit is another
        "iban DE00 3704 0044 0532 0130 00",
        "zip 94107-1234",
        "call me @home at 5",
        "a::b 12:30:45",
        "",
        "\0\u202e 👍",
    ],
)
def test_numbers_that_are_none_stay(text):
    assert redacted(text) == (text, ())


@pytest.mark.parametrize("text", ["a" * 300_000 + " @", "a." * 150_000 + "@", "a@" + "a-" * 150_000, "1" * 300_000])
def test_a_long_text_takes_time_by_its_length(text):
    assert redacted(text) == (text, ())


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        ('{"b": "jo@example.com", "a": ["x", true, 7]}', '{"a": ["x", true, 7], "b": "<email>"}'),
        ('{"card": 4111111111111111}', '{"card": "<card>"}'),
        ('{"jo@example.com": 1}', '{"<email>": 1}'),
        ('{"b": "nobody", "a": 1}', '{"b": "nobody", "a": 1}'),
        ("write to jo@example.com", "write to <email>"),
        ("4111111111111111", "<card>"),
        ("[" * 5000, "[" * 5000),
    ],
)
def test_an_answer_in_json_stays_json(answer, left):
    assert redacted_output(answer)[0] == left


def test_nothing_is_found_in_real_messages_that_hold_none():
    if not DATASETS.exists():
        pytest.skip("needs the real messages of ../shared/datasets")
    for name, column in (("banking77", "text"), ("snips", "text"), ("gsm8k", "question")):
        texts = pq.read_table(DATASETS / name / "train.parquet").column(column).to_pylist()
        assert [text for text in texts if redacted(text)[1]] == [], name


def personal(handling: str, folder: Path, endpoint: Endpoint) -> Job:
    texts = [*TEXTS[:30], *(f"please look at my case about {kind}: {value} thanks" for kind, value in PLANTED.items())]
    made = job(
        folder,
        endpoint,
        texts,
        split={"test": 0.2, "validation": 0, "calibration": 0},
        curate={"duplicates": {"near": None}},
    )
    made.fields["task"] |= {"pii": handling, "seeds": "seeds.jsonl", "test": {"gold": "gold.jsonl"}}
    made.write("seeds.jsonl", [{"input": f"seed of {value}", "output": "other"} for value in PLANTED.values()])
    gold = [{"input": f"gold row {value}", "output": "other"} for value in PLANTED.values()]
    made.write("gold.jsonl", [*gold, {"input": "gold row without any", "output": "billing"}])
    return made


def everything_under(root: Path) -> str:
    """All that a run left, shards included."""
    texts = []
    for path in root.rglob("*"):
        if path.suffix == ".parquet":
            texts.append(json.dumps(pq.read_table(path).to_pylist(), default=str))
        elif path.is_file():
            texts.append(path.read_bytes().decode(errors="replace"))
    return "\n".join(texts)


def test_redacted_it_reaches_neither_the_teacher_nor_the_disk(tmp_path):
    with Endpoint(then=labels) as endpoint:
        made = personal("redact", tmp_path, endpoint)
        manifest = made.run("curate")
        seen = {asked(one.body) for one in endpoint.requests}

    for kind, value in PLANTED.items():
        assert not [text for text in seen if value in text]
        assert f"please look at my case about {kind}: <{kind}> thanks" in seen
    left = everything_under(made.folder / "root")
    assert "<email>" in left, "the search would find what is there"
    for value in PLANTED.values():
        assert value not in left
    assert manifest["rows"]["requested"] == 35


def test_rejected_it_is_counted_by_kind_and_told_to_nobody(tmp_path, capsys):
    with Endpoint(then=labels) as endpoint:
        made = personal("reject", tmp_path, endpoint)
        manifest = made.run("label")
        seen = {asked(one.body) for one in endpoint.requests}

    assert manifest["rows"]["rejected"] == {"personal_data": 5}
    assert {row["evidence"] for row in made.artifact("label").rows("rejected")} == set(PLANTED)
    assert seen == set(TEXTS[:30])
    check_conservation(made, "label", manifest)
    left = everything_under(made.folder / "root")
    for value in PLANTED.values():
        assert value not in left
    with made.opened() as run:
        assert [row.input for row in run.gold()["gold"]] == ["gold row without any"]
    assert "gold.jsonl: 5 of 6 rows hold personal data and are left out" in capsys.readouterr().err


def test_a_student_reads_what_it_was_taught_on(tmp_path):
    def read(handling: str) -> Run:
        made = personal(handling, tmp_path / handling, endpoint)
        with made.opened() as run:
            return run

    with Endpoint(then=labels) as endpoint:
        (tmp_path / "off").mkdir(), (tmp_path / "redact").mkdir(), (tmp_path / "reject").mkdir()
        assert _private(read("off"), 1, "mail a@example.com") == "mail a@example.com"
        assert _private(read("redact"), 1, "mail a@example.com") == "mail <email>"
        with pytest.raises(BadInput) as caught:
            _private(read("reject"), 3, "mail a@example.com")
    assert str(caught.value) == "input 3: holds personal data (email), and task.pii = reject; remove it"


def test_a_table_of_answers_is_asked_as_it_is_written(tmp_path):
    made = Job(
        tmp_path / "job",
        task={
            "kind": "classify", "instruction": "x", "labels": ["a", "b"], "pii": "redact", "unlabeled": "pool.jsonl",
        },
        teachers={"people": {"kind": "table", "model": "answers.jsonl"}},
    )  # fmt: skip
    rows = [{"input": f"mail {n} to x{n}@example.com", "output": "a"} for n in range(5)]
    made.write("answers.jsonl", rows)
    made.write("pool.jsonl", rows)
    assert made.run("label")["rows"]["accepted"] == 5


def written(folder: Path, endpoint: Endpoint, handling: str, **task) -> Job:
    made = job(folder, endpoint, [f"message {n}" for n in range(4)])
    made.fields["task"] = {"instruction": "x", "unlabeled": "pool.jsonl", "pii": handling, **task}
    return made


@pytest.mark.parametrize(
    ("task", "said", "kept"),
    [
        ({"kind": "generate"}, "Write to jo@example.com.", "Write to <email>."),
        ({"kind": "extract", "schema": {"type": "object"}}, '{"b":"jo@example.com","a":1}', '{"a": 1, "b": "<email>"}'),
    ],
)
def test_what_a_teacher_makes_up_goes_the_same_way(tmp_path, task, said, kept):
    with Endpoint(then=lambda body: says(said)) as endpoint:
        redacting = written(tmp_path, endpoint, "redact", **task)
        redacting.run("label")
        rows = redacting.rows("label")
        rejecting = written(tmp_path, endpoint, "reject", **task)
        manifest = rejecting.run("label")

    assert {row.output for row in rows} == {kept}
    assert manifest["rows"]["rejected"] == {"personal_data": 4}
    assert {row["evidence"] for row in rejecting.artifact("label").rows("rejected")} == {"email"}


def test_tokens_that_spell_personal_data_are_not_kept(tmp_path):
    class Spelling:
        def __init__(self, text: str) -> None:
            self.text = text

        async def answer(self, prompt: Prompt, sampling: Sampling) -> Answer:
            return Answer(prompt.id, self.text, tokens=(Token(self.text, -0.1, ((self.text, -0.1),), 7, (7,)),))

    def tokens(text: str) -> object:
        row = asyncio.run(replace(run.labeler(), teacher=Spelling(text)).label(next(run.unlabeled())))
        assert isinstance(row, Example)
        return row.tokens

    with Endpoint(then=labels) as endpoint, written(tmp_path, endpoint, "redact", kind="generate").opened() as run:
        assert tokens("to the desk") is not None
        assert tokens("to jo@example.com") is None


def test_answers_and_references_of_the_users_own_leave_nothing_behind(tmp_path):
    made = Job(
        tmp_path / "job",
        task={"kind": "generate", "instruction": "x", "pii": "redact", "unlabeled": "pool.jsonl"},
        teachers={"people": {"kind": "table", "model": "answers.jsonl"}},
    )
    rows = [{"input": f"who has key {n}", "output": f"jo{n}@example.com has"} for n in range(3)]
    made.write("answers.jsonl", rows)
    made.write("pool.jsonl", rows)
    made.run("label")
    assert {row.output for row in made.rows("label")} == {"<email> has"}
    assert "@example.com" not in everything_under(made.folder / "root")

    made.fields["task"] |= {"pii": "reject", "test": {"gold": "gold.jsonl"}}
    made.write("gold.jsonl", [*rows, {"input": "who has the last", "output": "nobody"}])
    with made.opened() as run:
        assert [row.output for row in run.gold()["gold"]] == ["nobody"]
