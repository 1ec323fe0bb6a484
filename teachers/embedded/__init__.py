"""The teacher that ships in the package, so that the first five minutes need no key and no download.

A small causal language model of our own (see README.md beside this file): it writes messages of a support desk and
names their label, through one chat template and the same code as any other local model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ...data.errors import BadInput
from ..kind import TeacherRecipe
from ..transformers import TransformersTeacher

FOLDER = Path(__file__).parent / "model"


class EmbeddedRecipe(TeacherRecipe):
    """The one model that ships: `support-triage`."""

    kind: Literal["embedded"]
    model: str = "support-triage"
    concurrency: int = 512
    batch: int = 256
    """Prompts per forward pass; speed only. At 64 two thirds as many messages a second are written."""

    def build(self, name: str, folder: Path) -> TransformersTeacher:
        if self.model != "support-triage":
            raise BadInput(
                f"teachers.{name}.model = '{self.model}': no such embedded model; expected 'support-triage', or "
                "another `kind`"
            )
        return TransformersTeacher(
            FOLDER, revision=self.revision, batch=self.batch, kind="embedded", where=f"teacher {name}"
        )
