"""Answers from a file: people are teachers too, and so is yesterday's export of a system that is gone.

The file has an input and an output per row. A row is found by the input that the prompt was made from, which is the
last message, whole or after a lead such as `Input:`; case, punctuation and space do not matter. Of two rows for one
input the first counts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..data.duplicates import fold
from ..data.fingerprint import fingerprint
from ..data.rows import Answer, Failed, Prompt
from ..data.sources import expand, inputs_fingerprint, read_pairs
from ..data.teacher import Sampling
from .kind import TeacherRecipe


class TableRecipe(TeacherRecipe):
    """A file of inputs with their outputs; `model` is its path."""

    kind: Literal["table"]

    def build(self, name: str, folder: Path, *, pii: bool = False) -> TableTeacher:
        return TableTeacher(name, folder, self.model, self.revision, pii=pii)


class TableTeacher:
    """Looks an input up; a prompt whose input is not in the file is a failed row of class `absent`.

    Args:
        pii: have placeholders in the place of personal data, as inputs have when they are asked.
    """

    def __init__(self, name: str, folder: Path, path: str, revision: str, *, pii: bool = False) -> None:
        key = f"teachers.{name}.model"
        files = expand(path, folder, key)
        self._file = files[0]
        self._outputs: dict[str, str] = {}
        for row in read_pairs(path, folder, key, answered=True, pii=pii):
            if row.output is not None:
                self._outputs.setdefault(fold(row.input), row.output)
        self._revision = revision
        content = inputs_fingerprint(files)
        self._content = fingerprint({"files": content, "pii": pii}) if pii else fingerprint(content)

    @property
    def name(self) -> str:
        return f"{self._file.name}@{self._revision}"

    @property
    def identity(self) -> dict[str, str]:
        """The file's content is the model: an edited answer is asked for again."""
        return {"kind": "table", "model": self._content, "revision": self._revision}

    async def answer(self, prompt: Prompt, sampling: Sampling) -> Answer | Failed:
        if prompt.open:
            return Failed(
                prompt.id, "open", f"{self._file.name} cannot go on with a message; use a teacher that writes"
            )
        asked = prompt.messages[-1].content
        for text in (asked, asked.partition(":")[2]):  # the whole message, or what follows a label such as "Input:"
            if (output := self._outputs.get(fold(text))) is not None:
                return Answer(prompt.id, output)
        return Failed(prompt.id, "absent", f"{self._file.name} has no row for this input; add one")

    async def close(self) -> None:
        """Nothing to give back."""
