"""What training a student takes in memory, reckoned before anything is allocated."""

from __future__ import annotations

import os
from pathlib import Path

_PER_PARAMETER = 4
"""Bytes of a weight, in float32."""

_LEARNING = 12
"""Bytes more where it learns: its gradient and the two moments of AdamW."""

_BESIDE = 1_500_000_000
"""Bytes of the libraries, and of what a batch leaves on its way, at the sizes that are trained here."""


def needed(parameters: int, learning: int | None = None) -> int:
    """Bytes that training so many parameters takes, about.

    Args:
        learning: how many numbers learn; by default all of them do. Adapters are beside the parameters.
    """
    if learning is None:
        return (_PER_PARAMETER + _LEARNING) * parameters + _BESIDE
    return _PER_PARAMETER * parameters + (_PER_PARAMETER + _LEARNING) * learning + _BESIDE


def available() -> int:
    """Bytes of the device that a student trains on: the GPU's where there is one, else what this machine can give."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):  # not Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
