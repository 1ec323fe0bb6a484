"""Where a text stands under a root, and taking it away: a person who asks for it is forgotten.

Looked through are the ledger's questions and answers, every column of every shard, and every file of text. What is
made from something that holds the text goes too: a student's weights may remember what its rows said; so does every
unfinished stage, which does not say what it is made from. What is not under the root (inputs, published copies) is the
user's own to change.
"""

from __future__ import annotations

import contextlib
import html
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .artifact import stage_path
from .documents import read_document
from .ledger import Ledger, Record
from .storage import Storage, holds

Matches = Callable[[str], bool]
"""Whether a text holds what is looked for."""

Looked = Callable[[], None]
"""Told of each answer and each file that was looked through."""

_TEXT = (".json", ".jsonl", ".html", ".md", ".txt", ".csv", ".tsv", ".yaml", ".jinja", "")


@dataclass
class Places:
    """Where a text stands."""

    records: int = 0
    """Of the ledger."""
    stages: dict[str, str] = field(default_factory=dict)
    """Folders below `stages/`, each with why it has to go: the text stands in it, or in what it was made from."""
    files: list[str] = field(default_factory=list)
    """Others, reports and set-aside pieces of the ledger among them."""

    def __bool__(self) -> bool:
        return bool(self.records or self.stages or self.files)


def find(storage: Storage, ledger: Ledger, matches: Matches, looked: Looked = lambda: None) -> Places:
    """Look through everything under a root."""
    found = Places()
    for record in ledger.records(damaged=True):
        found.records += _said(record, matches)
        looked()
    holding: dict[str, str] = {}
    for path, _ in storage.list(""):
        looked()
        if path.startswith(f"{ledger.folder}/segments/"):
            continue
        stage = "/".join(path.split("/")[:2]) if path.startswith("stages/") else ""
        if stage in holding or not any(map(matches, texts(storage.fetch(path)))):
            continue
        if stage:
            holding[stage] = f"the text stands in {path.removeprefix(stage)[1:]}"
        else:
            found.files.append(path)
    found.files += [path for path in storage.leftovers() if _may_hold(storage.local(path), matches)]
    found.stages = _with_what_follows(storage, holding)
    if found:
        found.stages |= {path: "unfinished" for path in _unfinished(storage) if path not in found.stages}
    found.files += [path for path in _reports_of(storage, found.stages) if path not in found.files]
    return found


def forget(storage: Storage, ledger: Ledger, matches: Matches, places: Places) -> None:
    """Take away what `find` found, so that whoever is killed on the way finds the rest again.

    What is made from something goes before it, and the ledger last.

    Raises:
        Locked: somebody is writing to the ledger.
    """
    ledger.check_idle()
    for path in [*places.files, *reversed(places.stages)]:
        storage.delete(path)
    ledger.erase(lambda record: _said(record, matches))


def _said(record: Record, matches: Matches) -> bool:
    said = [value for name, value in record.body.items() if name in ("messages", "answer", "damaged")]
    return any(map(matches, _strings(said)))


def _may_hold(place: Path, matches: Matches) -> bool:
    """Whether something half-written holds the text, or cannot be looked through: half a shard, or weights."""
    for file in [place] if place.is_file() else place.rglob("*"):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):  # its writer is done with it
            try:
                text = file.read_bytes().decode()
            except UnicodeDecodeError:
                return True
            if matches(text):
                return True
    return False


def texts(file: Path) -> Iterator[str]:
    """All texts in a file of a kind that rows are read from, or that a run writes.

    Raises:
        BadInput: a document that cannot be read.
    """
    ending, _, _ = file.suffix.lower().partition("-")  # a piece set aside is called .jsonl-532
    if ending == ".parquet":
        yield from _strings(_shard(file))
        return
    if ending in (".pdf", ".docx"):
        yield read_document(file)
        return
    if ending not in _TEXT:
        return
    text = file.read_bytes().decode(errors="replace")
    yield text
    if ending == ".html":
        yield html.unescape(text)
    try:
        yield from _strings(map(json.loads, text.splitlines() if ending == ".jsonl" else [text]))
    except ValueError:
        return


def _shard(file: Path) -> Iterator[Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as table:
        for batch in table.iter_batches(2048):
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                if "string" in str(batch.schema.field(name).type):
                    yield column.to_pylist()


def _strings(value: Any) -> Iterator[str]:
    """Every string in a value, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for pair in value.items() for part in pair for text in _strings(part))
    elif not isinstance(value, int | float | None):
        yield from (text for part in value for text in _strings(part))


def _with_what_follows(storage: Storage, holding: dict[str, str]) -> dict[str, str]:
    """Those folders and the ones made from them, by the fingerprints that manifests name as inputs."""
    made_from: dict[str, set[str]] = {}
    for path, _ in storage.list("stages"):
        folder, _, name = path.rpartition("/")
        if name == "manifest.json" and folder.count("/") == 1:
            inputs = json.loads(storage.read(path)).get("inputs", {})
            made_from[folder] = {stage_path(*made) for made in inputs.items()}
    gone = dict(holding)
    while more := {
        folder: f"made from {min(inputs & gone.keys())}"
        for folder, inputs in made_from.items()
        if folder not in gone and inputs & gone.keys()
    }:
        gone |= more
    return gone


def _unfinished(storage: Storage) -> list[str]:
    return [folder for folder in storage.folders("stages") if not holds(storage, f"{folder}/manifest.json")]


def _reports_of(storage: Storage, stages: dict[str, str]) -> Iterator[str]:
    """The reports of runs that have one of these stages."""
    for path, _ in list(storage.list("")):
        folder, _, name = path.rpartition("/")
        if name != "report.json" or "/" in folder:
            continue
        prints = json.loads(storage.read(path))["provenance"]["stages"]
        if {stage_path(*made) for made in prints.items()} & stages.keys():
            yield from (other for other, _ in storage.list(folder) if other.rpartition("/")[2] in _REPORTS)


_REPORTS = ("report.json", "report.html", "card.md", "dataset-card.md", "model-card.md")
