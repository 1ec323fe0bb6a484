"""Inputs as strangers send them: every file is read right, or refused in one line that says where."""

import gc
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from understudy.data.errors import BadInput
from understudy.data.sides import Split
from understudy.data.sources import (
    Unlabeled,
    expand,
    inputs_fingerprint,
    read_pairs,
    read_unlabeled,
    unlabeled_fingerprint,
)

SPLIT = Split()


def write(folder: Path, name: str, content: str | bytes) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def read(folder: Path, path: str, **fields: str):
    return list(read_unlabeled(Unlabeled(path=path, **fields), folder, SPLIT, gold=False))


def texts(folder: Path, path: str, **fields: str) -> list[str]:
    return [source.input for source in read(folder, path, **fields)]


def refused(folder: Path, path: str, **fields: str) -> str:
    """The refusal, with the folder left out."""
    with pytest.raises(BadInput) as caught:
        read(folder, path, **fields)
    return said(caught, folder)


def refused_pairs(folder: Path, path: str, *, answered: bool = True) -> str:
    with pytest.raises(BadInput) as caught:
        read_pairs(path, folder, "task.test.gold", answered=answered)
    return said(caught, folder)


def said(caught, folder: Path) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{folder}/", "").replace(str(folder), "FOLDER")


def pairs(folder: Path, content: str, name: str = "gold.jsonl", *, answered: bool = True) -> list[tuple[str, str]]:
    write(folder, name, content)
    return [(row.input, row.output) for row in read_pairs(name, folder, "task.test.gold", answered=answered)]


# formats


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "input,n\none,1\ntwo,2\n"),
        ("t.CSV", "input,n\r\none,1\r\ntwo,2"),
        ("t.csv", "\ufeffinput,n\none,1\ntwo,2\n"),
        ("t.csv", '"input","n"\n"one",1\n"two",2\n\n\n'),
        ("t.tsv", "input\tn\none\t1\ntwo\t2\n"),
        ("t.jsonl", '{"input": "one", "n": 1}\n\n{"n": 2, "input": "two"}'),
        ("t.jsonl", '\ufeff{"input": "one"}\r\n{"input": "two"}\r\n'),
        ("t.ndjson", '{"input": "one"}\n{"input": "two"}\n'),
        ("t.json", '[{"input": "one"},\n {"input": "two"}]'),
        ("t.txt", "one\n\n  two  \n"),
        ("t.csv", "id,text\n1,one\n2,two\n"),
        ("t.csv", "id,message\n1,one\n2,two\n"),
    ],
)
def test_every_format_gives_the_same_rows(tmp_path, name, content):
    write(tmp_path, name, content)
    assert texts(tmp_path, name) == ["one", "two"]


def test_parquet_is_read_in_order_and_in_batches(tmp_path):
    rows = pa.table({"input": [f"text {n}" for n in range(5000)], "n": range(5000)})
    pq.write_table(rows, tmp_path / "t.parquet")
    assert texts(tmp_path, "t.parquet") == [f"text {n}" for n in range(5000)]


def test_a_file_with_a_byte_order_mark_gives_the_same_ids_as_one_without(tmp_path):
    write(tmp_path, "plain.csv", "input\none\n")
    write(tmp_path, "marked.csv", "\ufeffinput\none\n")
    assert read(tmp_path, "plain.csv") == read(tmp_path, "marked.csv")


def test_quoted_cells_may_hold_commas_quotes_and_lines(tmp_path):
    write(tmp_path, "t.csv", 'input,n\n"one, ""two""\nthree",1\nfour,2\n')
    assert texts(tmp_path, "t.csv") == ['one, "two"\nthree', "four"]


def test_control_characters_and_line_separators_stay_inside_their_row(tmp_path):
    write(tmp_path, "t.csv", "input,n\na\0b,1\nc\x0bd\u2028e,2\n")
    write(tmp_path, "t.jsonl", '{"input": "a\\u0000b"}\n{"input": "c\\u000bd\u2028e"}\n')
    assert texts(tmp_path, "t.csv") == texts(tmp_path, "t.jsonl") == ["a\0b", "c\x0bd\u2028e"]
    assert len({source.id for source in read(tmp_path, "t.csv")}) == 2


def test_half_of_a_surrogate_pair_is_read_as_the_replacement_character(tmp_path):
    write(
        tmp_path, "t.jsonl", '{"input": "cut \\ud83d", "id": "\\ude00"}\n{"input": "whole \\ud83d\\ude00", "id": 2}\n'
    )
    rows = read(tmp_path, "t.jsonl", id="id")
    assert [row.input for row in rows] == ["cut \ufffd", "whole 😀"]
    assert len({row.id for row in rows}) == 2
    assert pairs(tmp_path, '{"input": "\\ud83d", "output": "\\ud83d"}') == [("\ufffd", "\ufffd")]


def test_rows_without_a_text_are_left_out(tmp_path):
    write(tmp_path, "t.csv", "input,n\n,1\n  ,2\none,3\n,\n")
    write(tmp_path, "t.jsonl", '{"input": null}\n{"input": ""}\n{"input": "one"}\n')
    pq.write_table(pa.table({"input": [None, "one"]}), tmp_path / "t.parquet")
    for name in ("t.csv", "t.jsonl", "t.parquet"):
        assert texts(tmp_path, name) == ["one"]


def test_empty_cells_past_the_header_and_missing_ones_are_no_fault(tmp_path):
    write(tmp_path, "t.csv", "n,input\n1,one,,\n2\n3,three\n")
    assert texts(tmp_path, "t.csv") == ["one", "three"]


def test_values_that_are_not_text_become_text(tmp_path):
    write(tmp_path, "t.jsonl", '{"a": 7, "b": 1.5, "c": null, "d": {"k": ["é"]}, "e": true}\n')
    assert texts(tmp_path, "t.jsonl", input="{a}|{b}|{c}|{d}|{e}") == ['7|1.5||{"k": ["é"]}|True']
    pq.write_table(pa.table({"a": [float("nan"), 2.0], "b": ["x", "y"]}), tmp_path / "t.parquet")
    assert texts(tmp_path, "t.parquet", input="{a}{b}") == ["x", "2.0y"]


# refusals


@pytest.mark.parametrize(
    ("name", "content", "fields", "message"),
    [
        ("t.csv", "", {}, "t.csv: the file is empty; expected rows"),
        ("t.csv", "input\n", {}, "task.unlabeled: t.csv: holds no rows; expected one input a row"),
        ("t.jsonl", "\n\n", {}, "task.unlabeled: t.jsonl: holds no rows; expected one input a row"),
        ("t.json", "[]", {}, "task.unlabeled: t.json: holds no rows; expected one input a row"),
        (
            "t.csv",
            "subject,body\na,b\n",
            {},
            "t.csv:2: no column 'input' or 'text'; found subject, body; "
            "say which with task.unlabeled.input: '{column}'",
        ),
        ("t.csv", "a\nx\n", {"input": "b"}, "t.csv:2: no column 'b', which task.unlabeled.input names; found a"),
        (
            "t.csv",
            "subject,body\na,b\n",
            {"input": "{subject} {text}"},
            "t.csv:2: no column 'text', which task.unlabeled.input names; found subject, body",
        ),
        (
            "t.csv",
            "input\nx\n",
            {"id": "nr"},
            "t.csv:2: no column 'nr', which task.unlabeled.id names; found input",
        ),
        (
            "t.csv",
            "input\nx\n",
            {"group": "who"},
            "t.csv:2: no column 'who', which task.unlabeled.group names; found input",
        ),
        (
            "t.csv",
            "input,n\na,1\nb, c,2\n",
            {},
            "t.csv:3: more cells than the header's 2; quote cells with commas",
        ),
        (
            "t.csv",
            'input,n\na,1\n"b,2\nc,3\n',
            {},
            "t.csv:3: not valid CSV: unexpected end of data; mend the row that begins there",
        ),
        (
            "t.csv",
            'input,n\n"a"b,1\n',
            {},
            "t.csv:2: not valid CSV: ',' expected after '\"'; mend the row that begins there",
        ),
        ("t.csv", "input,n,input\na,1,b\n", {}, "t.csv:1: the header has the column 'input' twice; rename one"),
        (
            "t.jsonl",
            '{"input": "a"}\n\n{"input": "b"\n{"input": "c"}\n',
            {},
            "t.jsonl:3: not valid JSON: Expecting ',' delimiter at column 14; mend that line",
        ),
        (
            "t.jsonl",
            '{"input": "a"}\n["b"]\n',
            {},
            't.jsonl:2: expected an object such as {"input": ...}, found list',
        ),
        ("t.jsonl", "[" * 100_000, {}, "t.jsonl:1: nested too deeply to be read; mend that line"),
        ("t.json", "[" * 100_000, {}, "t.json: nested too deeply to be read; expected a JSON list of objects"),
        (
            "t.json",
            '{"input": "a"}',
            {},
            "t.json: expected a JSON list of objects; one object a line belongs in .jsonl",
        ),
        (
            "t.json",
            '[{"input": "a"}, 1]',
            {},
            "t.json: expected a JSON list of objects; one object a line belongs in .jsonl",
        ),
        ("t.json", '[\n{"input": }]', {}, "t.json:2: not valid JSON: Expecting value; mend that line"),
        ("t.csv", b"input\nfine\nna\xefve\n", {}, "t.csv:3: not UTF-8; save the file as UTF-8"),
        ("t.jsonl", b'{"input": "\xff"}\n', {}, "t.jsonl:1: not UTF-8; save the file as UTF-8"),
        ("t.txt", "text\n".encode("utf-16"), {}, "t.txt:1: not UTF-8; save the file as UTF-8"),
        ("t.json", b'[{"input":\n "\xff"}]', {}, "t.json:2: not UTF-8; save the file as UTF-8"),
        (
            "t.xlsx",
            "PK",
            {},
            "t.xlsx: '.xlsx' is not a format read here; expected .csv, .tsv, .jsonl, .ndjson, .json, .parquet, .txt",
        ),
        (
            "tickets",
            "a",
            {},
            "tickets: '' is not a format read here; expected .csv, .tsv, .jsonl, .ndjson, .json, .parquet, .txt",
        ),
        (
            "t.csv",
            "a,b\n1,2\n",
            {"input": "{a} {b"},
            "task.unlabeled.input: '{a} {b' is not a template: expected '}' before end of string; "
            "write columns as {column}, and a brace itself twice",
        ),
        (
            "t.csv",
            "a\n1\n",
            {"input": "{a} }"},
            "task.unlabeled.input: '{a} }' is not a template: Single '}' encountered in format string; "
            "write columns as {column}, and a brace itself twice",
        ),
        ("t.csv", "a\n1\n", {"input": "{}"}, "t.csv:2: no column '', which task.unlabeled.input names; found a"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(tmp_path, name, content, fields, message):
    write(tmp_path, name, content)
    assert refused(tmp_path, name, **fields) == message


def test_a_byte_that_is_not_utf8_is_found_however_far_down_it_is(tmp_path):
    write(tmp_path, "t.csv", b"input\n" + b"fine and long enough\n" * 20_000 + b"na\xefve\n")
    assert refused(tmp_path, "t.csv") == "t.csv:20002: not UTF-8; save the file as UTF-8"


def test_a_cell_too_long_to_be_one_is_a_quote_that_was_never_closed(tmp_path):
    write(tmp_path, "t.csv", 'input,n\n"a,1\n' + "b,2\n" * 50_000)
    assert "t.csv:2: not valid CSV: field larger than field limit (131072); mend the row that begins" in refused(
        tmp_path, "t.csv"
    )


@pytest.mark.parametrize("content", [b"not parquet at all", b"PAR1" * 10, b"PAR1"])
def test_a_file_that_is_not_parquet_is_refused(tmp_path, content):
    write(tmp_path, "t.parquet", content)
    message = refused(tmp_path, "t.parquet")
    assert message.startswith("t.parquet: not a sound Parquet file: ")
    assert message.endswith("; write it again")


def test_a_parquet_file_with_a_hole_in_it_is_refused(tmp_path):
    pq.write_table(pa.table({"input": [f"text {n} {n * n}" for n in range(3000)]}), tmp_path / "t.parquet")
    data = bytearray((tmp_path / "t.parquet").read_bytes())
    data[100:2000] = b"\xff" * 1900
    write(tmp_path, "t.parquet", bytes(data))
    message = refused(tmp_path, "t.parquet")
    assert message.startswith("t.parquet: not a sound Parquet file: ")
    assert message.endswith("; write it again")


def test_a_missing_file_or_a_folder_is_refused_by_name(tmp_path):
    expected = "expected a CSV, JSONL, JSON, Parquet or text file"
    assert refused(tmp_path, "no.csv") == f"task.unlabeled: no.csv: no such file; {expected}"
    (tmp_path / "tickets").mkdir()
    assert refused(tmp_path, "tickets") == f"task.unlabeled: tickets: is a folder; {expected}"
    assert refused(tmp_path, "~nobody-here/t.csv") == (
        "task.unlabeled: ~nobody-here/t.csv: there is no such user; write the whole path"
    )


# patterns


def test_a_pattern_reads_its_files_in_order_and_leaves_folders_out(tmp_path):
    for name, text in (("b", "two"), ("a", "one"), ("c", "three")):
        write(tmp_path, f"tickets/{name}.csv", f"input\n{text}\n")
    (tmp_path / "tickets" / "d.csv").mkdir()
    assert texts(tmp_path, "tickets/*.csv") == ["one", "two", "three"]
    assert texts(tmp_path, f"{tmp_path}/tickets/[ab].csv") == ["one", "two"]
    assert texts(tmp_path / "tickets", "../tickets/?.csv") == ["one", "two", "three"]


def test_a_pattern_that_matches_nothing_or_is_none_is_refused(tmp_path):
    assert refused(tmp_path, "t/*.csv") == "task.unlabeled: no file matches 't/*.csv' in FOLDER; check the pattern"
    message = refused(tmp_path, "**tickets/*.csv")
    assert message.startswith("task.unlabeled: '**tickets/*.csv' is not a pattern: ")
    assert message.endswith("; check it")


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    write(tmp_path, "tickets [May].csv", "input\none\n")
    assert texts(tmp_path, "tickets [May].csv") == ["one"]


def test_one_bad_file_of_a_pattern_is_named(tmp_path):
    write(tmp_path, "a.csv", "input\none\n")
    write(tmp_path, "b.csv", "")
    assert refused(tmp_path, "*.csv") == "b.csv: the file is empty; expected rows"


# templates


def test_a_template_joins_columns_and_a_name_alone_is_a_column(tmp_path):
    write(tmp_path, "t.csv", "subject,body,Ticket: no!r\nHi,{there},7\n")
    assert texts(tmp_path, "t.csv", input="{subject}\n{body}") == ["Hi\n{there}"]
    assert texts(tmp_path, "t.csv", input="body") == ["{there}"]
    assert texts(tmp_path, "t.csv", input="{{{subject}}}") == ["{Hi}"]
    assert texts(tmp_path, "t.csv", input="{Ticket: no!r}") == ["7"]


# ids, roots and sides


def test_ids_stay_when_files_are_appended_to_reordered_moved_or_written_otherwise(tmp_path):
    write(tmp_path, "t.csv", "input,n\none,1\ntwo,2\n")
    write(tmp_path, "moved/more.csv", "input,n\nthree,3\ntwo,2\none,1\n")
    write(tmp_path, "t.jsonl", '{"input": "two"}\n{"input": "one"}\n')
    expected = {source.input: source for source in read(tmp_path, "t.csv")}
    for path in ("moved/more.csv", "t.jsonl"):
        found = {source.input: source for source in read(tmp_path, path)}
        assert {text: found[text] for text in expected} == expected


def test_ids_come_from_the_users_column_where_there_is_one(tmp_path):
    write(tmp_path, "t.csv", "nr,input\n7,one\n8,one\n,two\n")
    write(tmp_path, "edited.csv", "nr,input\n7,one (edited)\n")
    rows = read(tmp_path, "t.csv", id="nr")
    assert len({row.id for row in rows}) == 3
    assert read(tmp_path, "edited.csv", id="nr")[0].id == rows[0].id
    assert rows[2].id == read(tmp_path, "t.csv")[2].id


def test_an_id_that_stands_for_two_texts_is_refused_and_one_repeated_whole_is_not(tmp_path):
    write(tmp_path, "t.csv", "ticket,input\n7,one\n8,two\n7,one\n7,three\n")
    assert refused(tmp_path, "t.csv", id="ticket") == (
        "t.csv:5: ticket = '7' stands for another text before; an id names one row: "
        "choose another column for task.unlabeled.id, or use this one for task.unlabeled.group"
    )
    write(tmp_path, "u.csv", "ticket,input\n7,one\n8,two\n7,one\n")
    assert len(read(tmp_path, "u.csv", id="ticket")) == 3


def test_a_group_is_never_on_two_sides(tmp_path):
    lines = [f"customer {n % 40},text {n}" for n in range(2000)]
    write(tmp_path, "t.csv", "who,input\n" + "\n".join(lines) + "\n,alone\n")
    rows = read(tmp_path, "t.csv", group="who")
    sides: dict[str, set[str]] = {}
    for row in rows:
        sides.setdefault(row.root, set()).add(row.side)
    assert len(sides) == 41
    assert all(len(found) == 1 for found in sides.values())
    assert {side for found in sides.values() for side in found} > {"train", "test"}
    assert rows[-1].root == rows[-1].id


def test_a_row_keeps_its_side_when_others_are_added(tmp_path):
    write(tmp_path, "few.csv", "input\n" + "\n".join(f"text {n}" for n in range(50)))
    write(tmp_path, "many.csv", "input\n" + "\n".join(f"text {n}" for n in reversed(range(500))))
    many = {row.id: row.side for row in read(tmp_path, "many.csv")}
    assert all(many[row.id] == row.side for row in read(tmp_path, "few.csv"))


# fingerprints


def test_the_fingerprint_of_inputs_is_their_content_and_columns_not_their_place(tmp_path):
    write(tmp_path, "a/t.csv", "input,n\none,1\n")
    write(tmp_path, "b/u.csv", "input,n\none,1\n")
    write(tmp_path, "c/t.csv", "input,n\none,2\n")

    def identity(path: str, **fields: str) -> str:
        return unlabeled_fingerprint(Unlabeled(path=path, **fields), tmp_path)

    assert identity("a/t.csv") == identity("b/u.csv") == identity("a/*.csv")
    changed = [identity("c/t.csv"), identity("*/t.csv"), identity("a/t.csv", id="n"), identity("a/t.csv", group="n")]
    assert len({identity("a/t.csv"), *changed}) == 5


def test_the_fingerprint_of_a_hub_dataset_is_its_name_split_and_revision():
    def identity(**fields: str) -> str:
        return unlabeled_fingerprint(Unlabeled(path="hub://org/name", **fields), Path("/nowhere"))

    assert len({identity(), identity(split="test"), identity(revision="v2"), identity(input="body")}) == 4


def test_fingerprints_of_files_are_digests_of_their_bytes(tmp_path):
    file = write(tmp_path, "t.csv", b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert inputs_fingerprint([file]) == [empty]
    assert inputs_fingerprint(expand("t.csv", tmp_path, "task.seeds")) == [empty]


# seeds and gold


def test_pairs_are_read_with_outputs_under_any_of_three_names(tmp_path):
    lines = [{"input": "a", "output": "x"}, {"text": "b", "label": "y"}, {"question": "c", "answer": "z"}]
    assert pairs(tmp_path, "\n".join(map(json.dumps, lines))) == [("a", "x"), ("b", "y"), ("c", "z")]
    assert pairs(tmp_path, "input,label\na,x\n", "gold.csv") == [("a", "x")]


def test_outputs_that_are_not_text_become_json_with_sorted_keys(tmp_path):
    lines = [
        {"input": "a", "output": {"b": 1, "a": [True]}},
        {"input": "b", "output": 0},
        {"input": "c", "output": False},
        {"input": "d", "output": ["é"]},
    ]
    said = [output for _, output in pairs(tmp_path, "\n".join(map(json.dumps, lines)))]
    assert said == ['{"a": [true], "b": 1}', "0", "false", '["é"]']


def test_seeds_may_lack_an_output_and_gold_may_not(tmp_path):
    content = '{"input": "a", "output": "x"}\n{"input": "b"}\n{"input": "c", "output": " "}\n'
    assert pairs(tmp_path, content, answered=False) == [("a", "x"), ("b", None), ("c", None)]
    assert refused_pairs(tmp_path, "gold.jsonl") == ("gold.jsonl:2: no output; found input; add `output` (or `label`)")
    write(tmp_path, "gold.csv", "input,output\na,x\nb,\n")
    assert refused_pairs(tmp_path, "gold.csv") == (
        "gold.csv:3: no output; found input, output; add `output` (or `label`)"
    )


def test_an_output_without_an_input_is_refused_and_an_empty_line_left_out(tmp_path):
    assert pairs(tmp_path, "input,output\na,x\n,\n", "gold.csv") == [("a", "x")]
    write(tmp_path, "gold.csv", "input,output\na,x\n ,y\n")
    assert refused_pairs(tmp_path, "gold.csv") == (
        "gold.csv:3: the output 'y' has no input; add one, or remove the row"
    )


def test_a_judged_text_that_comes_again_is_a_row_and_a_root_of_its_own(tmp_path):
    write(tmp_path, "gold.csv", "input,output\nthanks,x\nthanks,x\nbye,y\nthanks,z\n")
    rows = read_pairs("gold.csv", tmp_path, "task.test.gold", answered=True, side="test")
    assert len({row.id for row in rows}) == 4
    assert [row.root for row in rows] == [row.id for row in rows]
    assert {(row.side, row.origin) for row in rows} == {("test", "gold")}
    write(tmp_path, "gold.csv", "input,output\nbye,y\nthanks,x\nnew,n\nthanks,x\nthanks,z\n")
    later = read_pairs("gold.csv", tmp_path, "task.test.gold", answered=True, side="test")
    assert {row.id for row in rows} < {row.id for row in later}


def test_an_id_of_a_pair_names_one_text(tmp_path):
    content = '{"id": 1, "input": "a", "output": "x"}\n{"id": 1, "input": "b", "output": "x"}\n'
    write(tmp_path, "gold.jsonl", content)
    assert refused_pairs(tmp_path, "gold.jsonl") == (
        "gold.jsonl:2: id = '1' stands for another text before; an id names one row: change it"
    )


def test_pairs_are_read_from_every_file_of_a_pattern(tmp_path):
    write(tmp_path, "gold/a.csv", "input,output\na,x\n")
    write(tmp_path, "gold/b.csv", "input,output\nb,y\n")
    rows = read_pairs("gold/*.csv", tmp_path, "task.test.gold", answered=True)
    assert [(row.input, row.output) for row in rows] == [("a", "x"), ("b", "y")]


def test_a_file_of_pairs_without_a_row_is_refused(tmp_path):
    write(tmp_path, "gold.csv", "input,output\n,\n")
    assert refused_pairs(tmp_path, "gold.csv") == (
        "task.test.gold: gold.csv: holds no rows; expected one {input, output} object a line"
    )
    assert refused_pairs(tmp_path, "no.csv").startswith("task.test.gold: no.csv: no such file; ")


# hub datasets


def test_a_hub_dataset_is_read_row_by_row(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    write(tmp_path, "org/train.csv", "text,n\none,1\ntwo,2\n")
    write(tmp_path, "org/test.csv", "text,n\nthree,3\n")
    name = f"hub://{tmp_path}/org"
    assert texts(tmp_path, name) == ["one", "two"]
    assert texts(tmp_path, name, split="test", input="{n}: {text}") == ["3: three"]
    write(tmp_path, "t.csv", "input\none\ntwo\n")
    assert read(tmp_path, name) == read(tmp_path, "t.csv")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the library leaves its files open
def test_a_hub_dataset_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    write(tmp_path, "org/train.csv", "text,n\none,1\n")
    write(tmp_path, "bad/train.jsonl", '{"text": "one"}\n{"text": \n')
    (tmp_path / "empty").mkdir()
    end = "; check its name, split and revision"
    for name, split in (("org", "nowhere"), ("bad", "train"), ("empty", "train")):
        message = refused(tmp_path, f"hub://{tmp_path}/{name}", split=split)
        assert message.startswith(f"task.unlabeled: hub://{name}: cannot be loaded: "), message
        assert message.endswith(end)
    message = refused(tmp_path, f"hub://{tmp_path}/org", input="body")
    assert message == "hub://org: row 1: no column 'body', which task.unlabeled.input names; found text, n"
    gc.collect()
