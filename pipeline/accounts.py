"""What the ledger says was asked and paid: by teacher, run and month."""

from __future__ import annotations

import time
from collections.abc import Mapping
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
        if answer := body.get("answer"):
            self.answers += 1
            self.input_tokens += answer["input_tokens"]
            self.output_tokens += answer["output_tokens"]
        elif body.get("forgotten"):
            self.forgotten += 1
        else:
            self.unanswered += 1

    def line(self) -> str:
        """For a terminal."""
        parts = [f"{self.answers:,} answers", f"{self.input_tokens:,} tokens in", f"{self.output_tokens:,} out"]
        parts += [f"${self.usd:.4f}"] if self.usd else []
        parts += [f"{self.unanswered} unanswered"] if self.unanswered else []
        parts += [f"{self.forgotten} forgotten"] if self.forgotten else []
        return f"{self.month}  {self.run}  {self.teacher}: {', '.join(parts)}"


def accounts(ledger: Ledger) -> list[Account]:
    """All of them, by month, run and teacher; their dollars add up to what was ever paid."""
    found: dict[tuple[str, str, str], Account] = {}
    for record in ledger.records():
        body = record.body
        month = time.strftime("%Y-%m", time.gmtime(body["at"]))
        key = month, str(body.get("run", "")), str(body["teacher"].get("model", body["teacher"]["kind"]))
        found.setdefault(key, Account(*key)).add(body)
    return [account for _, account in sorted(found.items())]
