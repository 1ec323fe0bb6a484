"""Where a text stands under a root, and taking it away: a person who asks for it is forgotten.

Looked through are the ledger's questions and answers, every column of every shard, and every file of text. What is
made from something that holds the text goes too: a student's weights may remember what its rows said. What is not
under the root (inputs, published copies) is the user's own to change.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .ledger import Ledger, Record
from .storage import Storage

Matches = Callable[[str], bool]
"""Whether a text holds what is looked for."""

_TEXT = (".json", ".jsonl", ".html", ".md", ".txt", ".csv", ".yaml", ".jinja", "")


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


def find(storage: Storage, ledger: Ledger, matches: Matches) -> Places:
    """Look through everything under a root."""
    found = Places(sum(_said(record, matches) for record in ledger.records()))
    holding = {}
    for path, _ in storage.list(""):
        if path.startswith(f"{ledger.folder}/") and "/torn/" not in path:
            continue
        stage = "/".join(path.split("/")[:2]) if path.startswith("stages/") else ""
        if stage in holding or not any(map(matches, _texts(storage, path))):
            continue
        if stage:
            holding[stage] = f"the text stands in {path.removeprefix(stage)[1:]}"
        else:
            found.files.append(path)
    found.stages = _with_what_follows(storage, holding)
    found.files += [path for path in _reports_of(storage, found.stages) if path not in found.files]
    return found


def forget(storage: Storage, ledger: Ledger, matches: Matches, places: Places) -> None:
    """Take away what `find` found; the ledger last, so that whoever is killed on the way finds the rest again."""
    for path in [*places.files, *places.stages]:
        storage.delete(path)
    ledger.erase(lambda record: _said(record, matches))


def _said(record: Record, matches: Matches) -> bool:
    return "answer" in record.body and any(map(matches, _strings([record.body["messages"], record.body["answer"]])))


def _texts(storage: Storage, path: str) -> Iterator[str]:
    """All texts in a file."""
    if path.endswith(".parquet"):
        yield from _strings(_shard(storage.local(path)))
        return
    if Path(path).suffix not in _TEXT:
        return
    text = storage.read(path).decode(errors="replace")
    yield text
    if path.endswith(".html"):
        yield html.unescape(text)
    try:
        yield from _strings([json.loads(line) for line in (text.splitlines() if path.endswith("l") else [text])])
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
            made_from[folder] = {f"stages/{key.partition(':')[0]}-{print_}" for key, print_ in inputs.items()}
    gone = dict(holding)
    while more := {
        folder: f"made from {min(inputs & gone.keys())}"
        for folder, inputs in made_from.items()
        if folder not in gone and inputs & gone.keys()
    }:
        gone |= more
    return gone


def _reports_of(storage: Storage, stages: dict[str, str]) -> Iterator[str]:
    """The reports of runs that have one of these stages."""
    for path, _ in list(storage.list("")):
        folder, _, name = path.rpartition("/")
        if name != "report.json" or "/" in folder:
            continue
        prints = json.loads(storage.read(path))["provenance"]["stages"]
        if {f"stages/{key.partition(':')[0]}-{print_}" for key, print_ in prints.items()} & stages.keys():
            yield from (other for other, _ in storage.list(folder) if other.rpartition("/")[2] in _REPORTS)


_REPORTS = ("report.json", "report.html", "card.md", "dataset-card.md", "model-card.md")
