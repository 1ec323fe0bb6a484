"""Recipes as strangers write them: each fault is one line with file, line, what was found and what to do."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from understudy.data.config import Recipe, line_of, plain, read_yaml, refusal
from understudy.data.errors import BadInput


class Train(Recipe):
    epochs: int = Field(1, gt=0)
    rate: float = Field(0.1, gt=0)
    fast: bool = False
    method: Literal["sft", "distil"] = "sft"


class Open(Recipe):
    kind: Literal["open"]
    url: str = ""


class Closed(Recipe):
    kind: Literal["closed"]
    labels: dict[str, str] | list[str]


class Job(Recipe):
    name: str
    task: Annotated[Open | Closed, Field(discriminator="kind")]
    train: Train = Train()
    students: dict[str, Train] = Field(default_factory=dict)
    note: str | None = None


TASK = "task: {kind: open}\n"


def file(folder: Path, content: str | bytes) -> Path:
    path = folder / "recipe.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def load(folder: Path, content: str | bytes) -> Job:
    document = read_yaml(file(folder, content))
    try:
        return Job.model_validate(document)
    except ValidationError as error:
        raise refusal(error, document, "recipe.yaml", Job) from None


def refused(folder: Path, content: str | bytes) -> str:
    with pytest.raises(BadInput) as caught:
        load(folder, content)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{folder}/", "")


def test_a_recipe_is_read_by_the_rules_of_yaml_1_2(tmp_path):
    text = "name: no\ntask:\n  kind: closed\n  labels: {yes: on, no: off, y: n}\ntrain: {epochs: 0x10, fast: true}\n"
    job = load(tmp_path, text)
    assert job.name == "no"
    assert job.task.labels == {"yes": "on", "no": "off", "y": "n"}
    assert (job.train.epochs, job.train.fast) == (16, True)


def test_anchors_merges_comments_and_marks_of_byte_order_are_read(tmp_path):
    text = (
        "\ufeff# mine\nname: a\n" + TASK + "train: &t {epochs: 3}  # three\nstudents: {x: {<<: *t, rate: 0.5}, y: *t}\n"
    )
    job = load(tmp_path, text)
    assert job.students == {"x": Train(epochs=3, rate=0.5), "y": Train(epochs=3)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "recipe.yaml: holds nothing; expected keys such as `name:` and `task:`"),
        ("# only this\n", "recipe.yaml: holds nothing; expected keys such as `name:` and `task:`"),
        ("- a\n- b\n", "recipe.yaml: holds a list; expected keys such as `name:` and `task:`"),
        ("name\n", "recipe.yaml: holds text; expected keys such as `name:` and `task:`"),
        ("17\n", "recipe.yaml: holds text; expected keys such as `name:` and `task:`"),
        (
            "name: a\ntask:\n  kind: open\nname: b\n",
            "recipe.yaml:4: key 'name' is given twice; a key may be given once: remove one",
        ),
        (
            "name: a\ntask:\n  kind: open\n  url: a\n  url: b\n",
            "recipe.yaml:5: key 'url' is given twice; a key may be given once: remove one",
        ),
        (
            "name: a\ntask:\n\tkind: open\n",
            "recipe.yaml:3: not valid YAML: found character '\\t' that cannot start any token; mend that line",
        ),
        (
            "name: a\ntask: {kind: open\ntrain:\n",
            "recipe.yaml:3: not valid YAML: expected ',' or '}', but got ':'; mend that line",
        ),
        ("name: 'a\n", "recipe.yaml:2: not valid YAML: found unexpected end of stream; mend that line"),
        ("name: *a\n", "recipe.yaml:1: not valid YAML: found undefined alias 'a'; mend that line"),
        ("name: a\n---\nname: b\n", "recipe.yaml:2: not valid YAML: but found another document; mend that line"),
        (b"name: caf\xe9\n", "recipe.yaml: byte 9 is not UTF-8; save the recipe as UTF-8"),
        ("name: a\n".encode("utf-16"), "recipe.yaml: byte 0 is not UTF-8; save the recipe as UTF-8"),
        (
            "name: a\x07\n",
            "recipe.yaml: not valid YAML: unacceptable character #x0007: special characters are not allowed in "
            '"<unicode string>", position 7; mend it',
        ),
        ("name: !!int a\n", "recipe.yaml: not valid YAML: invalid literal for int() with base 10: 'a'; mend it"),
        ("name: 2024-13-45\n", "recipe.yaml: not valid YAML: month must be in 1..12; mend it"),
        ("[" * 5000, "recipe.yaml: nested too deeply to be read; expected keys such as `name:` and `task:`"),
        (
            'name: a\nnote: "\\ud83d\\ude00"\n',
            "recipe.yaml:2: \\ud83d is half of a character; write the character itself",
        ),
    ],
)
def test_what_is_no_yaml_mapping_is_refused(tmp_path, content, message):
    assert refused(tmp_path, content) == message


def test_what_is_no_file_is_refused(tmp_path):
    for path, expected in (
        (tmp_path, f"{tmp_path}: is a folder; give the recipe file in it, such as {tmp_path}/recipe.yaml"),
        (tmp_path / "no.yaml", f"{tmp_path}/no.yaml: no such recipe; `understudy init NAME` writes one"),
    ):
        with pytest.raises(BadInput) as caught:
            read_yaml(path)
        assert str(caught.value) == expected
    file(tmp_path, "name: a")
    with pytest.raises(BadInput, match=r"recipe\.yaml/x: cannot be read: Not a directory; check its permissions"):
        read_yaml(tmp_path / "recipe.yaml" / "x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # keys
        ("nmae: a\n" + TASK, "recipe.yaml:1: unknown key 'nmae'; did you mean 'name'?"),
        (
            "name: a\n" + TASK + "train:\n  epochs: 1\n  epoch: 2\n",
            "recipe.yaml:5: unknown key 'epoch' in train; did you mean 'epochs'?",
        ),
        (
            "name: a\ntask:\n  kind: open\n  labels: [a]\n",
            "recipe.yaml:4: unknown key 'labels' in task; known keys: kind, url",
        ),
        (
            "name: a\n" + TASK + "students:\n  x: {}\n  y:\n    rates: 2\n",
            "recipe.yaml:6: unknown key 'rates' in students.y; did you mean 'rate'?",
        ),
        (TASK, "recipe.yaml: name is missing; add it"),
        ("name: a\ntask:\n  kind: closed\n", "recipe.yaml:2: task.labels is missing; add it"),
        ("name: a\ntask:\n  url: x\n", "recipe.yaml:2: task has no `kind`; expected one of the known kinds"),
        (
            "name: a\ntask:\n  kind: shut\n",
            "recipe.yaml:2: task has kind = 'shut'; expected one of 'open', 'closed'",
        ),
        # values
        (
            "name: a\n" + TASK + "train:\n  fast: no\n",
            "recipe.yaml:4: train.fast = 'no': should be a valid boolean (YAML 1.2 reads yes, no, on and off as text); "
            "write true or false",
        ),
        (
            "name: true\n" + TASK,
            "recipe.yaml:1: name = true: should be a valid string (YAML reads it as a yes/no value); "
            "put it in quotes: 'true'",
        ),
        ("name: 2024\n" + TASK, "recipe.yaml:1: name = 2024: should be a valid string; put it in quotes: '2024'"),
        (
            "name: 2024-01-31\n" + TASK,
            "recipe.yaml:1: name = 2024-01-31: should be a valid string; put it in quotes: '2024-01-31'",
        ),
        ("name:\n" + TASK, "recipe.yaml:1: name = null: should be a valid string"),
        ("name: [a]\n" + TASK, "recipe.yaml:1: name = a list: should be a valid string"),
        ("name: {a: b}\n" + TASK, "recipe.yaml:1: name = a mapping: should be a valid string"),
        (
            "name: a\n" + TASK + "train: {epochs: '3'}\n",
            "recipe.yaml:3: train.epochs = '3': should be a valid integer",
        ),
        ("name: a\n" + TASK + "train: {epochs: 0}\n", "recipe.yaml:3: train.epochs = 0: should be greater than 0"),
        ("name: a\n" + TASK + "train: {epochs: 1.5}\n", "recipe.yaml:3: train.epochs = 1.5: should be a valid integer"),
        ("name: a\n" + TASK + "train: {rate: .nan}\n", "recipe.yaml:3: train.rate = nan: should be a finite number"),
        ("name: a\n" + TASK + "train: {rate: .inf}\n", "recipe.yaml:3: train.rate = inf: should be a finite number"),
        (
            "name: a\n" + TASK + "train:\n  method: |\n    two\n    lines\n",
            "recipe.yaml:4: train.method = 'two lines': should be 'sft' or 'distil'",
        ),
        (
            "name: a\n" + TASK + f"train:\n  method: {'x' * 99}\n",
            f"recipe.yaml:4: train.method = '{'x' * 57}...': should be 'sft' or 'distil'",
        ),
        (
            "name: a\n" + TASK + "train: fast\n",
            "recipe.yaml:3: train = 'fast': should be a mapping",
        ),
        (
            "name: a\n" + TASK + "students:\n  x: {epochs: 2}\n  y: {epochs: no}\n",
            "recipe.yaml:5: students.y.epochs = 'no': should be a valid integer",
        ),
        # labels, which may be a list or a mapping: the reading that came furthest is the one to mend
        (
            "name: a\ntask:\n  kind: closed\n  labels:\n    - a\n    - true\n",
            "recipe.yaml:6: task.labels.1 = true: should be a valid string (YAML reads it as a yes/no value); "
            "put it in quotes: 'true'",
        ),
        (
            "name: a\ntask:\n  kind: closed\n  labels:\n    a: x\n    true: y\n",
            "recipe.yaml:6: task.labels: the key true should be a valid string (YAML reads it as a yes/no value); "
            "put it in quotes: 'true'",
        ),
        (
            "name: a\ntask:\n  kind: closed\n  labels:\n    a: x\n    b: [y]\n",
            "recipe.yaml:6: task.labels.b = a list: should be a valid string",
        ),
        ("name: a\ntask:\n  kind: closed\n  labels: a\n", "recipe.yaml:4: task.labels = 'a': should be a mapping"),
    ],
)
def test_a_recipe_with_a_fault_is_refused_at_its_line(tmp_path, content, message):
    assert refused(tmp_path, content) == message


def test_a_misspelt_key_is_told_before_the_missing_one_it_stands_for(tmp_path):
    assert refused(tmp_path, "nmae: a\ntask: {kind: closed}\n") == (
        "recipe.yaml:1: unknown key 'nmae'; did you mean 'name'?"
    )


def test_a_value_put_in_after_reading_has_the_line_of_what_holds_it(tmp_path):
    document = read_yaml(file(tmp_path, "name: a\n\ntask: {kind: open}\nepochs: 4\n"))
    document["train"] = {"epochs": "x"}
    document["task"]["url"] = 7
    with pytest.raises(ValidationError) as caught:
        Job.model_validate({key: value for key, value in document.items() if key != "epochs"})
    assert line_of(document, ["task", "url"]) == 3
    assert line_of(document, ["train", "epochs"]) is None
    assert str(refusal(caught.value, document, "recipe.yaml", Job)).startswith("recipe.yaml:3: task.url = 7: ")


def test_without_lines_the_place_is_the_file(tmp_path):
    document = {"name": "a", "task": {"kind": "open"}, "train": {"epochs": 0}}
    with pytest.raises(ValidationError) as caught:
        Job.model_validate(document)
    assert str(refusal(caught.value, document, "recipe.yaml", Job)) == (
        "recipe.yaml: train.epochs = 0: should be greater than 0"
    )


def test_plain_values_have_built_in_types(tmp_path):
    text = "a: {b: [1, 2.5, 'x', true, null, &y 7]}\nc: >\n  folded\n  text\nd: 0x10\n"
    value = plain(read_yaml(file(tmp_path, text)))
    assert value == {"a": {"b": [1, 2.5, "x", True, None, 7]}, "c": "folded text\n", "d": 16}

    def kinds(item: object) -> set[type]:
        if isinstance(item, dict):
            return {type(item)}.union(*map(kinds, item), *map(kinds, item.values()))
        if isinstance(item, list):
            return {type(item)}.union(*map(kinds, item))
        return {type(item)}

    assert kinds(value) == {dict, list, int, float, str, bool, type(None)}


def test_a_recipe_is_frozen():
    with pytest.raises(ValidationError, match="Instance is frozen"):
        Train().epochs = 2
