"""Inputs: rows read from a user's files, each with an id that stays, one row in memory at a time.

CSV, TSV, JSON lines, JSON, Parquet and plain text by file ending, or a hub dataset. An id is the user's own column, or
made from the text alone, so that appending to a file, reordering it or moving it never changes the id of an old row.
Half of a surrogate pair, which JSON can spell and UTF-8 cannot, is read as U+FFFD.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from .config import Recipe
from .conversation import messages_in, transcript
from .errors import BadInput, in_a_line
from .fingerprint import fingerprint, row_id
from .pii import redacted, redacted_output
from .rows import Origin, Side, Source
from .sheet import COLUMNS, delimiter_of, row_and_root, unguarded
from .sides import Split, side_of

HUB = "hub://"
_TEXT_COLUMNS = ("input", "text", "message", "question", "prompt", "messages")
_OUTPUT_COLUMNS = ("output", "label", "answer")
_SLICES = "evaluate.slices"
_HALF_PAIR = re.compile("[\ud800-\udfff]")


class Unlabeled(Recipe):
    """Inputs that the teacher labels."""

    path: str = Field(min_length=1)
    """A file, a pattern such as `tickets/*.csv`, or `hub://org/name`; relative to the recipe."""

    input: str | None = None
    """The text of a row, with its columns in braces: `{subject}\\n{body}`. Default: the column input or text."""

    id: str | None = None
    """Column that identifies a row; by default the text itself does."""

    group: str | None = None
    """Column whose rows belong together (customer, document): a group is never on both sides of a test."""

    split: str = "train"
    """Which split of a hub dataset."""

    revision: str | None = None
    """Which revision of a hub dataset."""


def expand(path: str, folder: Path, key: str, expected: str = "a CSV, JSONL, JSON, Parquet or text file") -> list[Path]:
    """The files that a path or pattern names, sorted.

    Args:
        expected: what should be there, for messages.

    Raises:
        BadInput: there is none.
    """
    try:
        pattern = Path(path).expanduser()
    except RuntimeError:
        raise BadInput(f"{key}: {path}: there is no such user; write the whole path") from None
    file = folder / pattern
    if file.is_file():
        return [file]
    if any(sign in path for sign in "*?["):
        base = Path(pattern.anchor) if pattern.is_absolute() else folder
        try:
            found = base.glob(str(pattern.relative_to(base) if pattern.is_absolute() else pattern))
            files = sorted(file for file in found if file.is_file())
        except ValueError as error:
            raise BadInput(f"{key}: '{path}' is not a pattern: {error}; check it") from None
        if not files:
            raise BadInput(f"{key}: no file matches '{path}' in {base}; check the pattern")
        return files
    said = "is a folder" if file.is_dir() else "no such file"
    raise BadInput(f"{key}: {file}: {said}; expected {expected}")


def inputs_fingerprint(files: Sequence[Path]) -> list[str]:
    """What is in the files, not where they are: their digests, sorted."""
    return sorted(_file_digest(file) for file in files)


def read_unlabeled(
    unlabeled: Unlabeled, folder: Path, split: Split, *, gold: bool, columns: Sequence[str] = (), pii: bool = False
) -> Iterator[Source]:
    """The inputs to be labelled, in the order of their files, each with its root and side; empty ones are left out.

    Args:
        columns: what else to keep of each row.
        pii: put placeholders in the place of personal data, before anything is made of a row.

    Raises:
        BadInput: a file cannot be read, a column is not there, or one id stands for two texts.
    """
    clean = redacted if pii else _as_it_is
    texts: dict[str, bytes] = {}
    for place, row in _unlabeled_records(unlabeled, folder):
        text, personal = clean(_text(row, unlabeled.input, place, "task.unlabeled.input"))
        if not text.strip():
            continue
        chosen = _column(row, unlabeled.id, place, "task.unlabeled.id") if unlabeled.id else ""
        name = row_id("unlabeled", chosen or text)
        if chosen:
            content = hashlib.sha256(text.encode()).digest()[:8]
            if texts.setdefault(name, content) != content:
                raise BadInput(
                    f"{place}: {unlabeled.id} = '{chosen}' stands for another text before; an id names one row: "
                    "choose another column for task.unlabeled.id, or use this one for task.unlabeled.group"
                )
        group = _column(row, unlabeled.group, place, "task.unlabeled.group") if unlabeled.group else ""
        root = row_id("group", group) if group else name
        marks = {column: clean(_column(row, column, place, _SLICES))[0] for column in columns}
        side = side_of(root, split, gold=gold)
        yield Source(name, text, root, side, "unlabeled", columns=marks, personal=personal)


def unlabeled_fingerprint(unlabeled: Unlabeled, folder: Path) -> str:
    """Identity of the inputs: their content and which columns are read."""
    columns = {"input": unlabeled.input, "id": unlabeled.id, "group": unlabeled.group}
    if unlabeled.path.startswith(HUB):
        return fingerprint({**columns, "hub": [unlabeled.path, unlabeled.split, unlabeled.revision]})
    return fingerprint({**columns, "files": inputs_fingerprint(expand(unlabeled.path, folder, "task.unlabeled"))})


def read_pairs(
    path: str,
    folder: Path,
    key: str,
    *,
    answered: bool,
    side: Side | None = None,
    columns: Sequence[str] = (),
    pii: bool = False,
) -> list[Source]:
    """Seeds or a gold test: rows with an input and, where ``answered``, an output. Small enough for memory.

    A text that comes again is a row of its own; a seed keeps the root of the first, a judged row stands alone
    unless it is from a sheet, which knows its root.

    Args:
        key: where the path stands in the recipe, for messages.
        answered: every row must have an output, but those of a sheet, which is filled in by and by.
        side: put on every row; by default decided later.
        columns: what else to keep of each row.
        pii: put placeholders in the place of personal data, in inputs and outputs alike.

    Raises:
        BadInput: a file cannot be read, a row lacks what it must have, or one id stands for two texts.
    """
    clean = redacted if pii else _as_it_is
    rows: list[Source] = []
    texts: dict[str, str] = {}
    copies: Counter[str] = Counter()
    for file in expand(path, folder, key):
        for place, record in _records(file):
            ours = row_and_root(_cell(record.get(COLUMNS[0])))
            text, output = _pair(record, place, key)
            if not text.strip():
                continue
            text, personal = clean(unguarded(text) if ours else text)
            if pii and output is not None:
                output, told = redacted_output(output)
                personal = tuple(sorted({*personal, *told}))
            if answered and output is None and COLUMNS[0] not in record:
                raise BadInput(f"{place}: no output; found {', '.join(map(str, record))}; add `output` (or `label`)")
            chosen = _cell(record.get("id"))
            root = row_id(key, chosen or text)
            if texts.setdefault(root, text) != text:
                raise BadInput(
                    f"{place}: id = '{chosen}' stands for another text before; an id names one row: change it"
                )
            name = row_id(key, chosen or text, str(copies[root])) if copies[root] else root
            copies[root] += 1
            origin: Origin = "gold" if answered else "seed"
            marks = {column: clean(_column(record, column, place, _SLICES))[0] for column in columns}
            if answered:
                root = ours[1] if ours else name
            rows.append(Source(name, text, root, side or "train", origin, output, marks, personal=personal))
    if not rows:
        raise BadInput(f"{key}: {path}: holds no rows; expected one {{input, output}} object a line")
    return rows


def _as_it_is(text: str) -> tuple[str, tuple[str, ...]]:
    return text, ()


def _pair(record: dict[str, Any], place: str, key: str) -> tuple[str, str | None]:
    """Input and output of a row; both empty in a line of empty cells, as spreadsheets leave them."""
    text = _text(record, None, place, key)
    output = next((said for name in _OUTPUT_COLUMNS if (said := _output(record.get(name)))), None)
    if output is not None and not text.strip():
        raise BadInput(f"{place}: the output '{output[:40]}' has no input; add one, or remove the row")
    return text, output


def read_sheet(file: Path) -> list[Source]:
    """The rows of a sheet, labelled or not; an id is empty where somebody added a row by hand.

    Raises:
        BadInput: the file cannot be read, or is no sheet.
    """
    rows = []
    for place, record in _records(file):
        if missing := [column for column in COLUMNS if column not in record]:
            found = f"{place}: no column '{missing[0]}', so this is no sheet that `sample` wrote"
            raise BadInput(f"{found}; choose another file")
        ours = row_and_root(_cell(record[COLUMNS[0]]))
        name, root = ours or ("", "")
        text, output = _pair(record, place, str(file))
        if text.strip():
            rows.append(Source(name, unguarded(text) if ours else text, root, "test", "unlabeled", output))
    if not rows:
        raise BadInput(f"{file}: holds no rows, so there is nothing to add to; remove it, or choose another file")
    return rows


def _unlabeled_records(unlabeled: Unlabeled, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if unlabeled.path.startswith(HUB):
        yield from _hub_records(unlabeled)
        return
    empty = True
    for file in expand(unlabeled.path, folder, "task.unlabeled"):
        for record in _records(file):
            empty = False
            yield record
    if empty:
        raise BadInput(f"task.unlabeled: {unlabeled.path}: holds no rows; expected one input a row")


def _hub_records(unlabeled: Unlabeled) -> Iterator[tuple[str, dict[str, Any]]]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    name = unlabeled.path.removeprefix(HUB)
    try:
        rows = load_dataset(name, split=unlabeled.split, revision=unlabeled.revision, streaming=True)
        for number, row in enumerate(rows, 1):
            yield f"{unlabeled.path}: row {number}", row
    except (OSError, ValueError, DatasetsError) as error:
        said = in_a_line(error)
        raise BadInput(
            f"task.unlabeled: {unlabeled.path}: cannot be loaded: {said}; check its name, split and revision"
        ) from None


def _records(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of one file, each with the place to name in a message."""
    readers = {
        ".csv": _csv,
        ".tsv": _csv,
        ".jsonl": _json_lines,
        ".ndjson": _json_lines,
        ".json": _json,
        ".parquet": _parquet,
        ".txt": _lines,
    }
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise BadInput(f"{file}: '{file.suffix}' is not a format read here; expected {', '.join(readers)}")
    try:
        if file.stat().st_size == 0:
            raise BadInput(f"{file}: the file is empty; expected rows")
        yield from reader(file)
    except UnicodeDecodeError:
        raise BadInput(f"{file}:{_line_not_utf8(file)}: not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise BadInput(f"{file}: cannot be read: {error.strerror}; check its permissions") from None


def _line_not_utf8(file: Path) -> int:
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1


def _csv(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with open(file, encoding="utf-8-sig", newline="") as lines:
        delimiter = "\t" if file.suffix.lower() == ".tsv" else delimiter_of(lines.readline())
        lines.seek(0)
        # strict, because a quote that is never closed would otherwise swallow the rows after it without a word
        reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
        try:
            twice = [name for name, n in Counter(reader.fieldnames or ()).items() if n > 1 and name]
            if twice:
                raise BadInput(f"{file}:1: the header has the column '{twice[0]}' twice; rename one")
            for row in reader:
                place = f"{file}:{reader.line_num}"
                if any(row.pop(None, None) or ()):
                    expected = len(reader.fieldnames or ())
                    raise BadInput(f"{place}: more cells than the header's {expected}; quote cells with commas")
                yield place, row
        except csv.Error as error:
            begun = reader.line_num + 1  # the line after the last row that was whole
            raise BadInput(f"{file}:{begun}: not valid CSV: {error}; mend the row that begins there") from None


def _json_lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with open(file, encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield f"{file}:{number}", _object(line.rstrip(), f"{file}:{number}")


def _json(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        rows = json.loads(file.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise BadInput(f"{file}:{error.lineno}: not valid JSON: {error.msg}; mend that line") from None
    except RecursionError:
        raise BadInput(f"{file}: nested too deeply to be read; expected a JSON list of objects") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BadInput(f"{file}: expected a JSON list of objects; one object a line belongs in .jsonl")
    for number, row in enumerate(rows, 1):
        yield f"{file}: row {number}", row


def _object(text: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadInput(f"{place}: not valid JSON: {error.msg} at column {error.colno}; mend that line") from None
    except RecursionError:
        raise BadInput(f"{place}: nested too deeply to be read; mend that line") from None
    if not isinstance(row, dict):
        raise BadInput(f'{place}: expected an object such as {{"input": ...}}, found {type(row).__name__}')
    return row


def _parquet(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches(2048):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{file}: row {number}", row
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        said = in_a_line(error, 120)
        raise BadInput(f"{file}: not a sound Parquet file: {said}; write it again") from None


def _lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with open(file, encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield f"{file}:{number}", {"input": line.strip()}


def _text(row: dict[str, Any], template: str | None, place: str, key: str) -> str:
    if template is None:
        names = [name for name in _TEXT_COLUMNS if name in row]
        if not names:
            found = ", ".join(map(str, row)) or "nothing"
            raise BadInput(f"{place}: no column 'input' or 'text'; found {found}; say which with {key}: '{{column}}'")
        return next((text for name in names if (text := _cell(row[name]))), "")
    if "{" not in template:
        return _column(row, template, place, key)
    return "".join(
        literal + (_column(row, name, place, key) if name is not None else "")
        for literal, name in _template_parts(template, key)
    )


def _template_parts(template: str, key: str) -> Iterator[tuple[str, str | None]]:
    """Each literal text with the column after it; what `str.format` would read as a format is part of the name."""
    try:
        for literal, name, form, conversion in string.Formatter().parse(template):
            if name is not None:
                name += (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
            yield literal, name
    except ValueError as error:
        raise BadInput(
            f"{key}: '{template}' is not a template: {error}; write columns as {{column}}, and a brace itself twice"
        ) from None


def _column(row: dict[str, Any], name: str, place: str, key: str) -> str:
    if name not in row:
        found = ", ".join(map(str, row)) or "nothing"
        raise BadInput(f"{place}: no column '{name}', which {key} names; found {found}")
    return _cell(row[name])


def _cell(value: Any) -> str:
    """A value as text; nothing for what is missing, as files of numbers have it too."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if turns := messages_in(value):
        value = transcript(turns)
    text = value if isinstance(value, str) else _json_text(value) if isinstance(value, dict | list) else str(value)
    return _HALF_PAIR.sub("\ufffd", text)


def _output(value: Any) -> str | None:
    """An answer as text, JSON where it is not text; None for an empty one."""
    text = _cell(_json_text(value) if isinstance(value, bool) else value)
    return text if text.strip() else None


def _json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def _file_digest(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
