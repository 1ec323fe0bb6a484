"""What the ledger says was asked and paid: by teacher, run and month."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..data.ledger import Ledger


@dataclass
class Account:
    """Answers of one teacher to one run in one month (UTC)."""

    month: str
    run: str
    teacher: str
    answers: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    unanswered: int = 0
    """Requests that may have been billed and brought nothing."""
    forgotten: int = 0

    def add(self, body: Mapping[str, Any]) -> None:
        self.usd += float(body.get("usd", 0.0))
        self.answers += "answer" in body
        self.forgotten += "forgotten" in body
        if counted := body.get("answer") or body.get("forgotten"):
            self.input_tokens += counted["input_tokens"]
            self.output_tokens += counted["output_tokens"]
        else:
            self.unanswered += 1

    def line(self) -> str:
        """For a terminal."""
        parts = [f"{self.answers:,} answers", f"{self.input_tokens:,} tokens in", f"{self.output_tokens:,} out"]
        parts += [f"${self.usd:.4f}"] if self.usd else []
        parts += [f"{self.unanswered} unanswered"] if self.unanswered else []
        parts += [f"{self.forgotten} forgotten"] if self.forgotten else []
        return f"{self.month}  {self.run}  {self.teacher}: {', '.join(parts)}"


@dataclass
class Books:
    """All of a ledger."""

    accounts: list[Account]
    """By month, run and teacher; their dollars add up to what was ever paid."""
    records: int
    segments: int
    bytes: int
    damaged: int
    """Lines that fail their checksum: whole, and of no use."""
    torn: int
    """Bytes set aside: what killed writers did not finish."""

    def line(self) -> str:
        """For a terminal."""
        parts = [f"{self.records:,} records in {self.segments} segments, {self.bytes:,} bytes"]
        parts += [f"{self.damaged} damaged, which are asked again"] if self.damaged else []
        parts += [f"{self.torn:,} bytes of unfinished records set aside in ledger/torn"] if self.torn else []
        return "; ".join(parts)


def books(ledger: Ledger, looked: Callable[[], None] = lambda: None) -> Books:
    """Read every record, and tell ``looked`` of each."""
    found: dict[tuple[str, str, str], Account] = {}
    records = damaged = 0
    for record in ledger.records(damaged=True):
        looked()
        body = record.body
        if "damaged" in body:
            damaged += 1
            continue
        records += 1
        month = time.strftime("%Y-%m", time.gmtime(body["at"]))
        key = month, str(body.get("run", "")), str(body["teacher"].get("model", body["teacher"]["kind"]))
        found.setdefault(key, Account(*key)).add(body)
    sizes = [size for _, size in ledger.segments()]
    torn = sum(size for _, size in ledger.storage.list(f"{ledger.folder}/torn"))
    return Books([found[key] for key in sorted(found)], records, len(sizes), sum(sizes), damaged, torn)
