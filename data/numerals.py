"""Numbers in texts. Where a text holds several, the last is its answer, as scorers of school arithmetic read it."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")


def last_number(text: str) -> float | None:
    """The last number, commas between thousands allowed; None where there is none."""
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None
