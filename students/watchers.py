"""Who else is told how a training goes, through the library's own callbacks; nobody is, unless the recipe says so.

Nothing here reaches a network by itself: TensorBoard's files lie beside the student, Weights & Biases keeps its runs on
this machine until WANDB_MODE says otherwise, and Trackio does without a Space.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.errors import BadInput

if TYPE_CHECKING:
    from transformers import TrainerCallback


def check_watchers(names: Sequence[str]) -> None:
    """Refuse those whose package is missing.

    Raises:
        BadInput: it says what to install.
    """
    for name in names:
        if find_spec(name) is None:
            raise BadInput(f"train.report_to: {name} is not installed; `pip install {name}`, or remove it")


def watchers(names: Sequence[str], folder: Path, begun: int) -> list[TrainerCallback]:
    """A callback for each.

    Args:
        folder: the student's.
        begun: the step that a training goes on from; what TensorBoard has of later ones is void.
    """
    from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

    found: list[TrainerCallback] = []
    if "tensorboard" in names:
        from torch.utils.tensorboard import SummaryWriter

        place = os.environ.get("TENSORBOARD_LOGGING_DIR") or folder / "tensorboard"
        found.append(TensorBoardCallback(SummaryWriter(place, purge_step=begun + 1)))
    if "wandb" in names:
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        found.append(WandbCallback())
    if "trackio" in names:
        found.append(TrackioCallback())
    return found
