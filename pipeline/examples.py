"""How rows stand on disk: Parquet configs joined by id.

`default` is what fine-tuning reads, `logprobs` what distillation adds, `provenance` where a row comes from, and
`preference` what the teacher said more often and less often, for rows on which its answers differ; `rejected` and
`failed` hold the rows that did not make it, with the reason. Free-form JSON is text.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..data.artifact import WHOLE, Artifact, ShardWriter
from ..data.errors import UnderstudyError
from ..data.rows import Example, Failed, Rejected, Side, Source, TopTokens

Row = TypeVar("Row", Example, Source)

CONFIGS = ("default", "logprobs", "provenance", "preference", "rejected", "failed")


@dataclass
class Counts:
    """requested = accepted + rejected (by reason) + failed (by class) + pending."""

    requested: int = 0
    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    pending: int = 0

    def add(self, row: Example | Source | Rejected | Failed) -> None:
        """Count a row where it belongs."""
        self.requested += 1
        match row:
            case Rejected():
                self.rejected[row.reason] += 1
            case Failed():
                self.failed[row.kind] += 1
            case _:
                self.accepted += 1

    def check(self, stage: str) -> None:
        """Raise where a row got lost or was made twice: that is our fault and must not pass."""
        total = self.accepted + self.rejected.total() + self.failed.total() + self.pending
        if total != self.requested:
            raise UnderstudyError(f"{stage}: {self.requested} rows were requested, but {total} are accounted for")

    def as_json(self) -> dict[str, Any]:
        return {
            "requested": self.requested,
            "accepted": self.accepted,
            "rejected": dict(sorted(self.rejected.items())),
            "failed": dict(sorted(self.failed.items())),
            "pending": self.pending,
        }

    def __str__(self) -> str:
        parts = [f"{self.requested} requested = {self.accepted} accepted"]
        for name, counts in (("rejected", self.rejected), ("failed", self.failed)):
            reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(counts.items()))
            parts.append(f"{counts.total()} {name}" + (f" ({reasons})" if reasons else ""))
        return " + ".join([*parts, f"{self.pending} pending"])


class ExampleWriter:
    """Writes each row to the config it belongs to and counts it."""

    def __init__(self, artifact: Artifact) -> None:
        import pyarrow as pa

        text, texts, numbers, ids = pa.string(), pa.list_(pa.string()), pa.list_(pa.float32()), pa.list_(pa.int32())
        schemas = {
            "default": {"id": text, "side": text, "prompt": text, "completion": text},
            "logprobs": {
                "id": text,
                "labels": texts,
                "logprobs": numbers,
                "evidence": text,
                "tokens": ids,
                "top_ids": ids,
                "top_logprobs": pa.list_(pa.float16()),
            },
            "provenance": {"id": text, "root": text, "origin": text, "strategy": text, "agreement": pa.float32()},
            "preference": {"id": text, "prompt": text, "chosen": text, "rejected": text},
            "rejected": {"id": text, "reason": text, "evidence": text},
            "failed": {"id": text, "class": text, "message": text},
        }
        self._writers = {
            config: ShardWriter(artifact, config, pa.schema(list(schemas[config].items()))) for config in CONFIGS
        }
        self.counts = Counts()

    def add(self, row: Example | Source | Rejected | Failed) -> None:
        self.counts.add(row)
        match row:
            case Rejected():
                self._put("rejected", {"id": row.id, "reason": row.reason, "evidence": row.evidence})
            case Failed():
                self._put("failed", {"id": row.id, "class": row.kind, "message": row.message})
            case _:
                kept = {"id": row.id, "side": row.side, "prompt": row.input, "completion": row.output}
                self._put("default", kept, row.side)
                origin: dict[str, Any] = {"id": row.id, "root": row.root, "origin": row.origin}
                origin["strategy"] = row.strategy
                if isinstance(row, Example):
                    origin["agreement"] = row.agreement
                    self._put("logprobs", {"id": row.id, "evidence": row.evidence, **_logprobs(row)}, row.side)
                    if row.outvoted is not None:
                        pair = {"prompt": row.input, "chosen": row.output, "rejected": row.outvoted}
                        self._put("preference", {"id": row.id, **pair}, row.side)
                self._put("provenance", origin, row.side)

    def close(self) -> dict[str, list[dict[str, Any]]]:
        """Shards of every config that has rows."""
        return {config: shards for config, writer in self._writers.items() if (shards := writer.close())}

    def _put(self, config: str, row: dict[str, Any], side: str = WHOLE) -> None:
        self._writers[config].add(row, side)


def _logprobs(row: Example) -> dict[str, Any]:
    """The teacher's probabilities of labels, and its tokens; what there is not is left out."""
    known: dict[str, Any] = {}
    if row.probs is not None:
        known |= {"labels": list(row.probs), "logprobs": [math.log(max(p, 1e-30)) for p in row.probs.values()]}
    if row.tokens is not None:
        known |= {"tokens": row.tokens.ids, "top_ids": row.tokens.top_ids, "top_logprobs": row.tokens.logprobs}
    return known


def read_examples(artifact: Artifact, *sides: Side) -> Iterator[Example]:
    """The accepted rows of a stage on the sides asked for, or on all."""
    configs = (artifact.rows(config, *sides) for config in ("default", "logprobs", "provenance"))
    pairs = artifact.rows("preference", *sides)  # of some of the rows, in the same order
    pair = next(pairs, None)
    for row, soft, origin in zip(*configs, strict=True):
        assert row["id"] == soft["id"] == origin["id"], f"{artifact.path}: configs are out of step"
        probs = None
        if soft["labels"] is not None:
            probs = {label: math.exp(p) for label, p in zip(soft["labels"], soft["logprobs"], strict=True)}
        tokens = None
        if soft["tokens"] is not None:
            tokens = TopTokens(soft["tokens"], soft["top_ids"], soft["top_logprobs"])
        outvoted = None
        if pair is not None and pair["id"] == row["id"]:
            outvoted, pair = pair["rejected"], next(pairs, None)
        yield Example(
            row["id"], row["prompt"], row["completion"], origin["root"], row["side"], origin["origin"], probs,
            soft["evidence"], origin["strategy"], tokens, origin["agreement"], outvoted,
        )  # fmt: skip
    assert pair is None, f"{artifact.path}: configs are out of step"


def read_sources(artifact: Artifact) -> Iterator[Source]:
    """The inputs that a stage wrote."""
    for row, origin in zip(artifact.rows("default"), artifact.rows("provenance"), strict=True):
        yield Source(
            row["id"], row["prompt"], origin["root"], row["side"], origin["origin"], row["completion"],
            strategy=origin["strategy"],
        )  # fmt: skip


def sample_rows(rows: Iterable[Row], limit: int) -> list[Row]:
    """The ``limit`` rows whose ids sort first: a sample that no order of arrival decides."""
    import heapq

    return heapq.nsmallest(limit, rows, key=lambda row: row.id)
