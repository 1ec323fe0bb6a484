"""Identity by content: canonical JSON and the digests made from it, equal on every machine.

Values without one stable spelling (sets, paths, NaN) are refused rather than guessed at.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import orjson

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
"""Made once: `json.dumps` makes another at every call, which takes as long as encoding a request."""


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces; raises on NaN and on anything JSON has no word for."""
    return _ENCODER.encode(value)


def packed(value: Any) -> bytes:
    """The canonical form in UTF-8 at a tenth of the time, for the path that every request takes.

    For text, whole numbers and finite floats only, and floats are spelt the same from 1e-4 to 1e16: a NaN would be
    written as null. Half of a surrogate pair, which UTF-8 has no word for, is kept as it is.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return canonical(value).encode("utf-8", "surrogatepass")


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
