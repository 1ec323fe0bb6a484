"""A sheet to label by hand: what is on it, what is kept, and how it becomes the gold test."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from understudy.data.errors import BadInput, NotEnoughData
from understudy.data.sides import Split, side_of
from understudy.data.sources import SHEET_COLUMNS, guarded, read_pairs, unguarded
from understudy.data.storage import LocalStorage
from understudy.pipeline.context import Run
from understudy.pipeline.examples import read_examples
from understudy.pipeline.progress import Reporter
from understudy.pipeline.recipe import load_recipe
from understudy.pipeline.run import artifacts, run_stages
from understudy.pipeline.sheet import write_sheet

TEXTS = [f"message number {n} of the {n * 7919 % 1000} that came" for n in range(400)]


@contextmanager
def job(folder: Path, texts: list[str] = TEXTS, **task: object) -> Iterator[Run]:
    recipe = {
        "name": "t",
        "task": {
            "kind": "classify",
            "instruction": "Which?",
            "labels": ["billing", "other"],
            "unlabeled": "pool.jsonl",
            **task,
        },
        "teachers": {"people": {"kind": "table", "model": "answers.jsonl"}},
        "curate": {"duplicates": {"near": None}},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    (folder / "pool.jsonl").write_text("".join(json.dumps({"input": text}) + "\n" for text in texts))
    answers = [{"input": text, "output": "billing" if n % 2 else "other"} for n, text in enumerate(texts)]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    run = Run(load_recipe(folder / "recipe.yaml"), LocalStorage(folder / "root"), Reporter())
    try:
        yield run
    finally:
        run.close()


def cells(sheet: Path) -> list[dict[str, str]]:
    with open(sheet, encoding="utf-8-sig", newline="") as lines:
        return list(csv.DictReader(lines))


def fill(sheet: Path, output: str, count: int) -> None:
    """Label the first rows, as a spreadsheet saves them."""
    found = cells(sheet)
    with open(sheet, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, SHEET_COLUMNS, lineterminator="\r\n")
        writer.writeheader()
        writer.writerows({**row, "output": output if n < count else ""} for n, row in enumerate(found))


def test_a_sheet_holds_rows_that_are_held_out_and_no_answers(tmp_path):
    with job(tmp_path) as run:
        sheet = write_sheet(run, tmp_path / "sample.csv", 40)

    found = cells(tmp_path / "sample.csv")
    assert tuple(found[0]) == SHEET_COLUMNS
    assert len(found) == sheet.rows == sheet.added == sheet.held_out == 40
    assert {row["output"] for row in found} == {""}
    assert {side_of(row["sheet_id"], Split(), gold=False) for row in found} == {"test"}
    assert {row["input"] for row in found} <= set(TEXTS)


def test_the_order_of_the_file_does_not_matter_and_a_longer_sheet_holds_a_shorter_one(tmp_path):
    with job(tmp_path) as run:
        write_sheet(run, tmp_path / "short.csv", 30)
    with job(tmp_path, TEXTS[::-1]) as run:
        write_sheet(run, tmp_path / "long.csv", 60)

    assert cells(tmp_path / "long.csv")[:30] == cells(tmp_path / "short.csv")


def test_what_was_filled_in_stays_when_rows_are_added(tmp_path):
    with job(tmp_path) as run:
        write_sheet(run, tmp_path / "sample.csv", 20)
        fill(tmp_path / "sample.csv", "billing", 7)

        sheet = write_sheet(run, tmp_path / "sample.csv", 25)
        again = write_sheet(run, tmp_path / "sample.csv", 10)

    assert (sheet.rows, sheet.labelled, sheet.added) == (25, 7, 5)
    assert (again.rows, again.added) == (25, 0), "a sheet is never cut"
    assert [row["output"] for row in cells(tmp_path / "sample.csv")] == ["billing"] * 7 + [""] * 18


def test_a_customer_is_asked_about_once(tmp_path):
    pool = "".join(json.dumps({"text": text, "who": f"c{n % 50}"}) + "\n" for n, text in enumerate(TEXTS))
    with job(tmp_path, unlabeled={"path": "pool.jsonl", "group": "who"}) as run:
        (tmp_path / "pool.jsonl").write_text(pool)
        sheet = write_sheet(run, tmp_path / "sample.csv", 300)

    assert sheet.rows == 50


def test_a_sheet_becomes_the_gold_test_as_far_as_it_is_filled_in(tmp_path, capsys):
    with job(tmp_path) as run:
        write_sheet(run, tmp_path / "sample.csv", 40)
    fill(tmp_path / "sample.csv", "billing", 25)

    with job(tmp_path, test={"sheet": "sample.csv"}) as run:
        run_stages(run, "curate")
        gold = run.gold()["sheet"]
        learnt = {row.input for row in read_examples(artifacts(run)["curate"][1], "train")}

    assert len(gold) == 25
    assert {row.output for row in gold} == {"billing"}
    assert not learnt & {row.input for row in gold}, "what a student is judged on is not learnt"
    said = capsys.readouterr().err
    assert said.count("sample.csv: 25 of 40 rows are labelled; the others are left out") == 1


@pytest.mark.parametrize(
    "text",
    [
        "=HYPERLINK(1)",
        "+49 30 123",
        "-5 degrees",
        "@home",
        "'quoted'",
        "''",
        "00123",
        "1-2",
        "3.50",
        "\ttab",
        'say "no", please',
        "two\nlines",
        "Größe \N{SNOWMAN}",
        "plain",
    ],
)
def test_a_text_that_a_spreadsheet_would_change_comes_back_as_it_was(tmp_path, text: str):
    assert unguarded(guarded(text)) == text
    with job(tmp_path, [text, *TEXTS[:5]]) as run:
        write_sheet(run, tmp_path / "sample.csv", 6)
    fill(tmp_path / "sample.csv", "other", 6)

    shown = {row["input"][:1] for row in cells(tmp_path / "sample.csv")}
    read = {row.input for row in read_pairs("sample.csv", tmp_path, "task.test.sheet", answered=True)}

    assert not shown & set("=+-@0123456789\t")
    assert read == {text, *TEXTS[:5]}


def test_a_label_on_the_sheet_that_is_none_is_refused_and_nothing_is_lost(tmp_path):
    with job(tmp_path) as run:
        write_sheet(run, tmp_path / "sample.csv", 5)
        fill(tmp_path / "sample.csv", "biling", 2)
        before = (tmp_path / "sample.csv").read_bytes()

        with pytest.raises(BadInput, match=r"sample\.csv: row 1: the output 'biling' .* did you mean 'billing'\?$"):
            write_sheet(run, tmp_path / "sample.csv", 9)

    assert (tmp_path / "sample.csv").read_bytes() == before


def test_another_file_is_not_taken_for_a_sheet(tmp_path):
    (tmp_path / "mine.csv").write_text("input,output\nhello,other\n")
    with job(tmp_path) as run, pytest.raises(BadInput, match=r"mine\.csv:2: no column 'sheet_id', so this is no sheet"):
        write_sheet(run, tmp_path / "mine.csv", 9)


def test_a_sheet_on_which_nothing_is_filled_in_is_no_test(tmp_path):
    with job(tmp_path) as run:
        write_sheet(run, tmp_path / "sample.csv", 5)

    with (
        job(tmp_path, test={"sheet": "sample.csv"}) as run,
        pytest.raises(BadInput, match=r"^task\.test\.sheet: sample\.csv: holds no rows with an output; expected"),
    ):
        run.gold()


def test_inputs_that_nobody_wrote_yet_make_no_sheet(tmp_path):
    recipe = {
        "name": "t",
        "task": {"kind": "generate", "instruction": "Write.", "seeds": "seeds.jsonl"},
        "teachers": {"people": {"kind": "table", "model": "seeds.jsonl"}},
        "generate": {"rows": 3},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    (tmp_path / "seeds.jsonl").write_text('{"input": "a", "output": "b"}\n')
    run = Run(load_recipe(tmp_path / "recipe.yaml"), LocalStorage(tmp_path / "root"), Reporter())

    with pytest.raises(NotEnoughData, match=r"^sample: there is no input to put on a sheet; .* run `generate` first$"):
        write_sheet(run, tmp_path / "sample.csv", 5)
    run.close()
    assert not (tmp_path / "sample.csv").exists()
