"""Personal data: what is found, what looks like it and is not, and that nothing of it stays anywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from understudy.data.errors import BadInput
from understudy.data.pii import redacted
from understudy.pipeline.context import Run
from understudy.pipeline.use import _private

from .endpoint import Endpoint
from .test_pipeline_stages import TEXTS, Job, asked, check_conservation, job, labels

DATASETS = Path(__file__).parents[2] / "shared" / "datasets"
PLANTED = {
    "email": "jo.smith+shop@mail.example.co.uk",
    "phone": "+49 30 901820",
    "iban": "DE89 3704 0044 0532 0130 00",
    "card": "4111 1111 1111 1111",
    "ip": "203.0.113.77",
}


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
    ],
)
def test_what_has_the_form_of_personal_data_is_replaced(text, left):
    assert redacted(text)[0] == left


@pytest.mark.parametrize(
    "text",
    [
        "order 4155552671 of 2024-05-12 at 10:30",
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
