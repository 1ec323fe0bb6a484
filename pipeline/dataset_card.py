"""README.md of a published dataset: what its rows are, where they come from, what was left out, and what they cost.

Everything on it is counted from the rows or read from the manifests of the stages that made them. The licence and the
terms are the recipe's words: nobody else can know them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..data.artifact import Artifact, side_of_shard
from ..data.contamination import KINDS
from ..data.filters import Language
from ..data.rows import SIDES, Example
from .card import terms
from .config import PublishStage
from .context import Run
from .examples import read_examples, sample_rows
from .markdown import front_matter, plain, table
from .verification import verification
from .words import usd, whole

CONFIGS = {
    "default": "what fine-tuning reads: prompt and completion",
    "logprobs": "the teacher's probabilities, where it gave them, by the same id",
    "provenance": "the root, the origin and the strategy of each row, by the same id",
    "preference": "what the teacher said more often and less often, where its answers differ, by the same id",
}

_SAMPLES = 5
_LONGEST = 240
_LABELS = 40
"""Labels whose counts are shown."""

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
"""Size classes of the hub's, by the rows below which one holds."""


@dataclass
class Contents:
    """What the rows themselves say."""

    sides: Counter[str] = field(default_factory=Counter)
    origins: Counter[str] = field(default_factory=Counter)
    strategies: Counter[str] = field(default_factory=Counter)
    labels: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By output and side; counted where the task has labels."""
    samples: list[Example] = field(default_factory=list)

    @classmethod
    def of(cls, run: Run, curated: Artifact) -> Contents:
        """Count the rows of a curated dataset."""
        found = cls()
        labels = run.recipe.labels

        def counted() -> Iterator[Example]:
            for row in read_examples(curated):
                found.sides[row.side] += 1
                found.origins[row.origin] += 1
                if row.strategy:
                    found.strategies[row.strategy] += 1
                if row.output in labels:
                    found.labels[row.output, row.side] += 1
                if row.side == "train":
                    yield row

        found.samples = sample_rows(counted(), _SAMPLES)
        return found


def dataset_card(
    run: Run, stage: PublishStage, manifests: Mapping[str, Mapping[str, Any]], contents: Contents, tag: str
) -> str:
    """The card.

    Args:
        manifests: of the stages that made the rows, by stage; `curate` among them.
    """
    parts = (
        _what(run, contents),
        _loading(stage, tag, manifests["curate"]["shards"]),
        _origin(run, stage, manifests, contents),
        _counts(manifests),
        _contamination(manifests["curate"]["summary"]["contamination"]),
        _balance(contents),
        _shown(contents),
        _again(run, manifests),
        _limits(run),
    )
    body = "\n\n".join("\n".join(part) for part in map(list, parts) if part)
    return f"{front_matter(_front(run, stage, manifests['curate'], contents))}\n{body}\n"


def _front(run: Run, stage: PublishStage, curated: Mapping[str, Any], contents: Contents) -> dict[str, Any]:
    rows = contents.sides.total()
    shards = curated["shards"]
    languages = {code for check in run.recipe.curate.filters if isinstance(check, Language) for code in check.only}
    return {
        "license": stage.license,
        **({"language": sorted(languages)} if languages else {}),
        "task_categories": ["text-classification" if run.recipe.labels else "text-generation"],
        "tags": ["understudy", "distillation", *(["synthetic"] if contents.strategies else [])],
        "size_categories": [next((name for most, name in _SIZES if rows < most), "1M<n<10M")],
        "configs": [
            {
                "config_name": config,
                "default": config == "default",
                "data_files": [
                    {"split": side, "path": f"{config}/{side}-*.parquet"}
                    for side in SIDES
                    if any(side_of_shard(shard["path"]) == side for shard in shards[config])
                ],
            }
            for config in CONFIGS
            if shards.get(config)
        ],
    }


def _what(run: Run, contents: Contents) -> Iterator[str]:
    recipe = run.recipe
    sides = ", ".join(f"{whole(contents.sides[side])} {side}" for side in SIDES if contents.sides[side])
    yield f"# {plain(recipe.name)}"
    yield ""
    yield f"{whole(contents.sides.total())} rows ({sides}) of one task, answered by a teacher model:"
    yield ""
    yield f"> {plain(recipe.task.instruction, 1000)}"
    if recipe.labels:
        yield ""
        yield from table(["label", "what it means"], [[name, text] for name, text in recipe.labels.items()], _LONGEST)


def _loading(stage: PublishStage, tag: str, shards: Mapping[str, Any]) -> Iterator[str]:
    yield from ("## Loading", "")
    assert stage.dataset is not None
    where = stage.dataset if "://" not in stage.dataset else "FOLDER"
    revision = f', revision="{tag}"' if where != "FOLDER" else ""
    yield from ("```python", "from datasets import load_dataset", "")
    yield f'rows = load_dataset("{where}", "default", split="train"{revision})'
    yield from ("```", "")
    yield from (f"- `{name}`: {said}." for name, said in CONFIGS.items() if name in shards)


def _origin(
    run: Run, stage: PublishStage, manifests: Mapping[str, Mapping[str, Any]], contents: Contents
) -> Iterator[str]:
    yield from ("## Where it comes from", "")
    yield f"- Answers: {plain(manifests['label']['summary']['teacher'])}."
    if "generate" in manifests:
        writer = manifests["generate"]["made_from"]["teacher"]
        yield f"- Inputs written by: {plain(writer['model'] + '@' + writer['revision'])}."
    origins = ", ".join(f"{whole(rows)} {name}" for name, rows in sorted(contents.origins.items()))
    yield f"- Inputs: {origins}."
    if contents.strategies:
        strategies = ", ".join(f"{whole(rows)} {plain(name)}" for name, rows in sorted(contents.strategies.items()))
        yield f"- Written by strategy: {strategies}."
    yield from (f"- {plain(said, 1000)}" for said in verification(run, manifests))
    spent = [manifest["spend"] for manifest in manifests.values()]
    requests = sum(part["requests"] + part["from_ledger"] for part in spent)
    read, written = (sum(part[f"{way}_tokens"] for part in spent) for way in ("input", "output"))
    paid = sum(part["usd"] for part in spent)
    cost = f"; {plain(usd(paid))} in this run" if paid else ""
    yield f"- Asked of teachers: {whole(requests)} requests, {whole(read)} tokens in, {whole(written)} out{cost}."
    yield from terms(stage)


def _counts(manifests: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Every row that was asked for, and what became of it."""
    counted = {key: manifest["rows"] for key, manifest in manifests.items() if manifest["rows"]}
    yield from ("## What became of every row", "")
    yield from table(
        ["stage", "requested", "accepted", "rejected", "failed", "pending"],
        [
            [
                key,
                whole(rows["requested"]),
                whole(rows["accepted"]),
                whole(sum(rows["rejected"].values())),
                whole(sum(rows["failed"].values())),
                whole(rows["pending"]),
            ]
            for key, rows in counted.items()
        ],
    )
    reasons = [(key, *part) for key, rows in counted.items() for part in rows["rejected"].items()]
    if reasons:
        yield ""
        yield from table(["rejected in", "why", "rows"], [[key, why, whole(rows)] for key, why, rows in reasons])


def _contamination(found: Mapping[str, Any] | None) -> Iterator[str]:
    """What training rows were compared with, and how many were found there; the pairs stay in the report."""
    if not found:
        return
    yield from ("## Compared with tests", "")
    yield f"{whole(found['compared'])} rows to learn from were compared with every text of these tests."
    yield ""
    yield from table(
        ["test", "texts", "found as they are", "a few words otherwise", "inside longer rows"],
        [
            [name, whole(part["texts"]), *(whole(part["found"][kind]) for kind in KINDS)]
            for name, part in found["tests"].items()
        ],
    )
    yield ""
    yield "What was found is not in the dataset."


def _balance(contents: Contents) -> Iterator[str]:
    if not contents.labels:
        return
    labels = Counter[str]()
    for (label, _), rows in contents.labels.items():
        labels[label] += rows
    sides = [side for side in SIDES if contents.sides[side]]
    yield from ("## Balance", "")
    yield from table(
        ["label", *sides],
        [
            [label, *(whole(contents.labels[label, side]) for side in sides)]
            for label, _ in sorted(labels.items(), key=lambda part: (-part[1], part[0]))[:_LABELS]
        ],
    )
    if len(labels) > _LABELS:
        yield from ("", f"The {_LABELS} most frequent of {len(labels)} labels.")


def _shown(contents: Contents) -> Iterator[str]:
    yield from ("## Samples", "")
    yield from table(["prompt", "completion"], [[row.input, row.output] for row in contents.samples], _LONGEST)


def _again(run: Run, manifests: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield from ("## Making it again", "")
    yield "`recipe.yaml`, beside this card, is the recipe; `understudy curate recipe.yaml` makes these rows again from "
    yield "the same inputs and the same teacher. A teacher that samples is repeated by its ledger only."
    yield ""
    if run.loaded.overrides:
        changed = ", ".join(f"{key} = {json.dumps(value)}" for key, value in run.loaded.overrides.items())
        yield f"- Set on the command line: {plain(changed, 1000)}"
    yield from (f"- Stage {plain(key)}: `{manifest['fingerprint']}`" for key, manifest in manifests.items())
    versions = manifests["curate"]["versions"]
    yield "- Versions: " + ", ".join(f"{plain(name)} {plain(said)}" for name, said in versions.items())


def _limits(run: Run) -> Iterator[str]:
    yield from ("## What it is not for", "")
    yield "- A completion is what a model said, not what is true: its mistakes are in here, and gold is not."
    yield "- It is about one task. A model that learns from it alone knows nothing else."
    yield "- The test split was labelled by the same teacher: it says how far a student follows it, and no more."
    if not run.recipe.task.test:
        yield "- Nobody checked the answers by hand: the recipe names no gold test."
