"""A sheet to label by hand: what is on it, what is kept, and how it becomes the gold test."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from understudy.data.errors import BadInput, NotEnoughData
from understudy.data.sheet import COLUMNS, LONGEST, row_and_root
from understudy.data.sides import Split, side_of
from understudy.data.sources import read_pairs
from understudy.data.storage import LocalStorage
from understudy.pipeline.context import Run
from understudy.pipeline.examples import read_examples
from understudy.pipeline.progress import Reporter
from understudy.pipeline.recipe import load_recipe
from understudy.pipeline.run import artifacts, run_stages
from understudy.pipeline.sheet import Sheet, write_sheet

from .endpoint import Endpoint, says

TEXTS = [f"message number {n} of the {n * 7919 % 1000} that came" for n in range(400)]


@contextmanager
def job(folder: Path, texts: list[str] = TEXTS, split: dict[str, float] | None = None, **task: object) -> Iterator[Run]:
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
        "split": split or {},
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


def fill(sheet: Path, output: str, count: int, delimiter: str = ",") -> None:
    """Label the first rows, as a spreadsheet saves them."""
    found = cells(sheet)
    with open(sheet, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\r\n", delimiter=delimiter)
        writer.writeheader()
        writer.writerows({**row, "output": output if n < count else ""} for n, row in enumerate(found))


def sides(sheet: Path) -> list[str]:
    """Of the rows' roots, where nothing is said of sides."""
    return [side_of(row_and_root(row["sheet_id"])[1], Split(), gold=False) for row in cells(sheet)]


def learnt(run: Run) -> set[str]:
    """What a student learns from, once everything before that is done."""
    run_stages(run, "curate")
    return {row.input for row in read_examples(artifacts(run)["curate"][1], "train")}


def test_a_sheet_holds_rows_that_are_held_out_and_no_answers(tmp_path):
    with job(tmp_path) as run:
        sheet = write_sheet(run, tmp_path / "sample.csv", 40)

    found = cells(tmp_path / "sample.csv")
    assert tuple(found[0]) == COLUMNS
    assert len(found) == sheet.rows == sheet.added == sheet.roots == 40
    assert {row["output"] for row in found} == {""}
    assert set(sides(tmp_path / "sample.csv")) == {"test"}
    assert {row["input"] for row in found} <= set(TEXTS)


def test_the_order_of_the_file_does_not_matter_and_a_longer_sheet_holds_a_shorter_one(tmp_path):
    with job(tmp_path) as run:
        write_sheet(run, tmp_path / "short.csv", 30)
        write_sheet(run, tmp_path / "grown.csv", 30)
    (tmp_path / "gold.csv").write_text("input,output\na,other\n")
    with job(tmp_path, TEXTS[::-1], test={"gold": "gold.csv"}, split={"test": 0.05}) as run:
        write_sheet(run, tmp_path / "long.csv", 60)
        write_sheet(run, tmp_path / "grown.csv", 60)

    assert cells(tmp_path / "long.csv")[:30] == cells(tmp_path / "short.csv")
    assert cells(tmp_path / "long.csv") == cells(tmp_path / "grown.csv")


def test_what_was_filled_in_stays_when_rows_are_added(tmp_path):
    with job(tmp_path) as run:
        write_sheet(run, tmp_path / "sample.csv", 20)
        fill(tmp_path / "sample.csv", "billing", 7)

        sheet = write_sheet(run, tmp_path / "sample.csv", 25)
        again = write_sheet(run, tmp_path / "sample.csv", 10)

    assert (sheet.rows, sheet.labelled, sheet.added) == (25, 7, 5)
    assert (again.rows, again.added, again.asked) == (25, 0, 10), "a sheet is never cut"
    assert [row["output"] for row in cells(tmp_path / "sample.csv")] == ["billing"] * 7 + [""] * 18


def test_a_sheet_grows_at_its_end_and_nothing_of_it_is_touched(tmp_path):
    sheet = tmp_path / "sample.csv"
    with job(tmp_path) as run:
        write_sheet(run, sheet, 3)
        first, second, _ = cells(sheet)
        lines = [
            "sheet_id,notes,output,input",
            f"{first['sheet_id']},ask Ann,billing,{first['input']}",
            f"{second['sheet_id']},,,{second['input']}",
            f"{second['sheet_id']},copied by mistake,other,{second['input']}",
            ",by hand,other,'tis mine",
            ",by hand too,billing,mine as well",
            ",,,",
        ]
        before = "\r\n".join(lines).encode()
        sheet.write_bytes(before)

        made = write_sheet(run, sheet, 8)
        again = write_sheet(run, sheet, 8)

    assert sheet.read_bytes().startswith(before)
    assert (made.rows, made.added, made.labelled, made.roots) == (8, 3, 4, 7)
    assert (again.rows, again.added) == (8, 0)
    texts = [row["input"] for row in cells(sheet)]
    assert len(set(texts) & set(TEXTS)) == 5, "what is there already is not added again"
    gold = read_pairs("sample.csv", tmp_path, "task.test.sheet", answered=True)
    assert "'tis mine" in {row.input for row in gold}, "a text typed by hand is taken as it is"


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_sheet_that_was_saved_with_semicolons_is_read_and_grows(tmp_path, mark: str):
    sheet = tmp_path / "sample.csv"
    with job(tmp_path) as run:
        write_sheet(run, sheet, 3)
        fill(sheet, "other", 2, ";")
        sheet.write_text(mark + sheet.read_text(encoding="utf-8-sig"))

        assert write_sheet(run, sheet, 5).labelled == 2

    with job(tmp_path, test={"sheet": "sample.csv"}) as run:
        gold = run.gold()["sheet"]
    assert [row.output for row in gold] == ["other", "other"]
    assert {row.input for row in gold} < set(TEXTS)


def customers(folder: Path) -> None:
    """The pool, 400 rows of 50 customers."""
    lines = (json.dumps({"text": text, "who": f"c{n % 50}"}) + "\n" for n, text in enumerate(TEXTS))
    (folder / "pool.jsonl").write_text("".join(lines))


def test_a_customer_is_asked_about_once_before_any_is_asked_about_twice(tmp_path, capsys):
    with job(tmp_path, unlabeled={"path": "pool.jsonl", "group": "who"}) as run:
        customers(tmp_path)
        once = write_sheet(run, tmp_path / "once.csv", 50)
        twice = write_sheet(run, tmp_path / "twice.csv", 100)

    assert (once.rows, once.roots) == (50, 50)
    assert (twice.rows, twice.roots) == (100, 50)
    held_out = sides(tmp_path / "once.csv").count("test")
    assert sides(tmp_path / "once.csv")[:held_out] == ["test"] * held_out
    assert once.exposed == 50 - held_out


def test_rows_of_one_customer_keep_their_root_as_gold(tmp_path):
    with job(tmp_path, unlabeled={"path": "pool.jsonl", "group": "who"}) as run:
        customers(tmp_path)
        write_sheet(run, tmp_path / "sample.csv", 100)
        roots = {source.input: source.root for source in run.unlabeled()}
    fill(tmp_path / "sample.csv", "other", 100)

    gold = read_pairs("sample.csv", tmp_path, "task.test.sheet", answered=True)

    assert {row.input: row.root for row in gold} == {row.input: roots[row.input] for row in gold}
    assert len({row.root for row in gold}) == 50
    assert len({row.id for row in gold}) == 100


def test_a_sheet_becomes_the_gold_test_as_far_as_it_is_filled_in(tmp_path, capsys):
    odd = ["=1+1 is what my bill says in the end", "two\r\nlines, and a comma", "00123", '"quoted"']
    with job(tmp_path, [*odd, *TEXTS[:40]]) as run:
        write_sheet(run, tmp_path / "sample.csv", 44)
    fill(tmp_path / "sample.csv", "billing", 30)
    saved = (tmp_path / "sample.csv").read_bytes().replace(b"two\r\nlines", b"two\nlines")  # as spreadsheets have it
    (tmp_path / "sample.csv").write_bytes(saved)

    with job(tmp_path, [*odd, *TEXTS[:40]], test={"sheet": "sample.csv"}) as run:
        left = learnt(run)
        gold = run.gold()["sheet"]
        rejected = artifacts(run)["curate"][1].manifest()["rows"]["rejected"]

    assert len(gold) == 30
    assert {row.output for row in gold} == {"billing"}
    assert not left & {row.input for row in gold}, "what a student is judged on is not learnt"
    assert rejected == {"leak_same": 30}, "copies in every side are found, whatever a spreadsheet did"
    said = capsys.readouterr().err
    assert said.count("sample.csv: 30 of 44 rows are labelled; the others are left out") == 1


def test_a_sheet_that_is_filled_in_further_is_another_test_of_the_same_answers(tmp_path):
    with job(tmp_path) as run:
        write_sheet(run, tmp_path / "sample.csv", 40)
    found = []
    for count in (20, 20, 30):
        fill(tmp_path / "sample.csv", "other", count)
        with job(tmp_path, test={"sheet": "sample.csv"}) as run:
            found.append({key: artifact.fingerprint for key, (_, artifact) in artifacts(run).items()})

    assert found[0] == found[1]
    assert found[1]["label"] == found[2]["label"]
    assert found[1]["curate"] != found[2]["curate"]


def test_texts_come_back_to_the_letter(tmp_path):
    texts = [
        "=HYPERLINK(1)", "+49 30 123", "-5 degrees", "@home", "'quoted'", "''", "00123", "1-2", "3.50", "\ttab",
        'say "no", please', "two\nlines", "a\rb", "a\r\nb", "\ufeffmarked", "Gr\u00f6\u00dfe \N{SNOWMAN}", "a;b",
        " space around ", "plain", "1e5", "Mar 5", "TRUE",
    ]  # fmt: skip
    with job(tmp_path, texts) as run:
        write_sheet(run, tmp_path / "sample.csv", len(texts))
    fill(tmp_path / "sample.csv", "other", len(texts))

    shown = {row["input"][:1] for row in cells(tmp_path / "sample.csv")}
    read = {row.input for row in read_pairs("sample.csv", tmp_path, "task.test.sheet", answered=True)}

    assert not shown & set("=+-@0123456789\t\ufeff ")
    assert read == set(texts)


def test_what_no_cell_holds_is_left_out(tmp_path):
    longest = "long " * (LONGEST // 5)
    with job(tmp_path, [longest, longest + "ever", "short"]) as run:
        assert write_sheet(run, tmp_path / "sample.csv", 3).rows == 2
        assert write_sheet(run, tmp_path / "sample.csv", 3).added == 0


def test_what_a_teacher_wrote_is_put_on_a_sheet_once_it_is_there(tmp_path):
    recipe = {
        "name": "t",
        "task": {
            "kind": "classify",
            "instruction": "Which?",
            "labels": ["billing", "other"],
            "seeds": "seeds.jsonl",
        },
        "generate": {"rows": 40, "examples": 1},
        "curate": {"duplicates": {"near": None}},
    }
    seeds = [{"input": text, "output": "other"} for text in TEXTS[:10]]
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in seeds))
    with Endpoint(then=lambda body: says(f"parcel {json.dumps(body)[-400:]} is late")) as endpoint:
        recipe["teachers"] = {"lead": {"kind": "openai", "model": "m", "base_url": endpoint.base_url}}
        (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
        run = Run(load_recipe(tmp_path / "recipe.yaml"), LocalStorage(tmp_path / "root"), Reporter())
        with pytest.raises(NotEnoughData) as caught:
            write_sheet(run, tmp_path / "sample.csv", 30)
        assert not (tmp_path / "sample.csv").exists()
        run_stages(run, "generate")

        sheet = write_sheet(run, tmp_path / "sample.csv", 30)
        run.close()

    assert str(caught.value) == (
        f"sample: the teacher has not written its inputs yet; `understudy generate {tmp_path}/recipe.yaml` has it do so"
    )
    assert (sheet.rows, sheet.roots) == (30, 10)
    assert all(row["input"].startswith("parcel ") for row in cells(tmp_path / "sample.csv"))
    *_, split, kin, exposed = sheet.lines(run)
    assert split == "  and set split: {test: 0.2}, without which other rows of the same seed are learnt"
    assert kin == "  rows of one seed are not independent: the verdict counts 10 roots"
    assert exposed == f"  {sheet.exposed} rows are more than is held out: other rows of their seed are learnt"


# what is said


def told(run: Run, sheet: Sheet) -> list[str]:
    return [line.strip() for line in sheet.lines(run)]


def test_a_new_sheet_says_what_to_do_with_it(tmp_path):
    with job(tmp_path) as run:
        lines = told(run, write_sheet(run, tmp_path / "sample.csv", 300))

    assert lines == [
        f"{tmp_path}/sample.csv: 300 rows, 300 of them new, 0 labelled",
        "fill in the column `output`; about 1237 rows are needed for a verdict at a margin of 2 points if the two "
        "differ on 8% of them",
        "then add `test: {sheet: sample.csv}` to `task` in recipe.yaml",
    ]


def test_a_sheet_says_how_it_stands_to_the_gold_that_there_is(tmp_path):
    (tmp_path / "gold.csv").write_text("input,output\na,other\n")
    with job(tmp_path, test={"gold": "gold.csv", "mine": "sample.csv"}) as run:
        added = told(run, write_sheet(run, tmp_path / "more.csv", 9))[-1]
        own = told(run, write_sheet(run, tmp_path / "sample.csv", 9))[-1]

    assert added == (
        "then add `sheet: more.csv` to task.test in recipe.yaml; the verdict is about the first there, which is 'gold' "
        "now"
    )
    assert own == "it is task.test.mine of recipe.yaml: the next run counts what is filled in"


@pytest.mark.parametrize(
    ("place", "shown"), [("job/deep/a.csv", "deep/a.csv"), ("job/my own: 1.csv", '"my own: 1.csv"'), ("out.csv", None)]
)
def test_the_line_for_the_recipe_leads_to_the_sheet(tmp_path, place: str, shown: str | None):
    (tmp_path / "job/deep").mkdir(parents=True)
    with job(tmp_path / "job") as run:
        lines = told(run, write_sheet(run, tmp_path / place, 9))

    shown = shown or f"{tmp_path}/out.csv"
    assert lines[-1] == f"then add `test: {{sheet: {shown}}}` to `task` in recipe.yaml"


def test_fewer_rows_than_were_asked_for_are_said_to_be_all(tmp_path):
    with job(tmp_path, TEXTS[:7]) as run:
        assert told(run, write_sheet(run, tmp_path / "sample.csv", 9))[1] == "9 were asked for, and there are no more"


def test_a_split_that_holds_customers_out_is_not_asked_for_again(tmp_path):
    with job(tmp_path, unlabeled={"path": "pool.jsonl", "group": "who"}) as run:
        customers(tmp_path)
        asked = told(run, write_sheet(run, tmp_path / "sample.csv", 5))
    with job(tmp_path, split={"test": 0.3}, unlabeled={"path": "pool.jsonl", "group": "who"}) as run:
        customers(tmp_path)
        content = told(run, write_sheet(run, tmp_path / "sample.csv", 5))

    assert asked[-1] == "and set split: {test: 0.2}, without which other rows of the same who are learnt"
    assert content[1:] == asked[1:-1]


# what is refused


def test_a_label_on_the_sheet_that_is_none_is_refused_and_nothing_is_lost(tmp_path):
    with job(tmp_path) as run:
        write_sheet(run, tmp_path / "sample.csv", 5)
        fill(tmp_path / "sample.csv", "biling", 2)
        before = (tmp_path / "sample.csv").read_bytes()

        with pytest.raises(BadInput, match=r"sample\.csv: row 1: the output 'biling' .* did you mean 'billing'\?$"):
            write_sheet(run, tmp_path / "sample.csv", 9)

    assert (tmp_path / "sample.csv").read_bytes() == before


def test_a_refused_label_is_found_by_the_row_of_the_sheet(tmp_path):
    with job(tmp_path) as run:
        write_sheet(run, tmp_path / "sample.csv", 5)
        found = cells(tmp_path / "sample.csv")
        found[3]["output"] = "biling"
        with open(tmp_path / "sample.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(found)

        with pytest.raises(BadInput) as grown:
            write_sheet(run, tmp_path / "sample.csv", 9)
    with job(tmp_path, test={"sheet": "sample.csv"}) as run, pytest.raises(BadInput) as judged:
        run.gold()

    said = f"row 4: the output 'biling' of '{found[3]['input']}' is not one of the 2 labels; did you mean 'billing'?"
    assert str(grown.value) == f"{tmp_path}/sample.csv: {said}"
    assert str(judged.value) == f"task.test.sheet: sample.csv: {said}"


def test_another_file_is_not_taken_for_a_sheet(tmp_path):
    (tmp_path / "mine.csv").write_text("input,output\nhello,other\n")
    (tmp_path / "bare.csv").write_text("input,output\n")
    with job(tmp_path) as run:
        with pytest.raises(BadInput, match=r"mine\.csv:2: no column 'sheet_id', so this is no sheet .* another file$"):
            write_sheet(run, tmp_path / "mine.csv", 9)
        with pytest.raises(BadInput, match=r"bare\.csv: holds no rows, so there is nothing to add to; remove it, or"):
            write_sheet(run, tmp_path / "bare.csv", 9)


def test_a_place_that_cannot_hold_a_sheet_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with job(tmp_path) as run:
        with pytest.raises(BadInput, match=r"^--to .*/sample\.xlsx: a sheet is a CSV file; let its name end in \.csv$"):
            write_sheet(run, tmp_path / "sample.xlsx", 9)
        with pytest.raises(BadInput, match=r"^--to .*/s\.csv: cannot be written: No such file or directory; choose an"):
            write_sheet(run, tmp_path / "nowhere/s.csv", 9)


def test_a_sheet_on_which_nothing_is_filled_in_is_no_test(tmp_path):
    with job(tmp_path) as run:
        write_sheet(run, tmp_path / "sample.csv", 5)

    with job(tmp_path, test={"sheet": "sample.csv"}) as run, pytest.raises(BadInput) as caught:
        run.gold()

    assert str(caught.value) == ("task.test.sheet: sample.csv: none of 5 rows is labelled; fill in the column `output`")


def test_an_empty_output_is_a_mistake_in_a_file_that_is_no_sheet(tmp_path):
    (tmp_path / "gold.csv").write_text("id,input,output\n1,hello,other\n2,bye,\n")
    with job(tmp_path, test={"gold": "gold.csv"}) as run, pytest.raises(BadInput, match=r"gold\.csv:3: no output; "):
        run.gold()


def test_empty_inputs_make_no_sheet(tmp_path):
    with job(tmp_path, [" ", ""]) as run, pytest.raises(NotEnoughData) as caught:
        write_sheet(run, tmp_path / "sample.csv", 5)

    assert str(caught.value) == "sample: there is no input to put on a sheet; every row of the input was empty"
    assert not (tmp_path / "sample.csv").exists()
