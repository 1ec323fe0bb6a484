"""Identity by content: canonical JSON and the digests made from it, equal on every machine.

Values without one stable spelling (sets, paths, NaN) are refused rather than guessed at.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
"""Made once: `json.dumps` makes another at every call, which takes as long as encoding a request."""


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces; raises on NaN and on anything JSON has no word for."""
    return _ENCODER.encode(value)


def fingerprint(value: Any) -> str:
    """Sixteen hex digits of the canonical form."""
    return digest(canonical(value).encode())[:16]


def digest(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def row_id(*parts: str) -> str:
    """The id of a row from what it is made of: sixteen hex digits, stable across runs and machines."""
    return digest("\0".join(parts).encode())[:16]


def fraction(*parts: str) -> float:
    """A number in [0, 1) that looks random and is decided by the parts alone."""
    return int(digest("\0".join(parts).encode())[:13], 16) / 16**13
