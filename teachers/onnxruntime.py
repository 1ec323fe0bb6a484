"""A student as ONNX, answered on a CPU by the library this module is named for, greedily and without torch.

What the file has says what it does. Without inputs named `past.*` it scores closed labels: one pass, `logits` of shape
(batch, labels) in the order of `id2label` in config.json. With them it writes text: each layer's keys and values of
what was read before go in again with the next token.

Prompts are answered one at a time, so that none is padded: a student of 1M parameters takes half a millisecond for a
message, less than waiting for company would.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

from ..data.errors import BadInput, in_a_line
from ..data.rows import Answer, Failed, Prompt
from ..data.teacher import Sampling
from .loading import load_config, load_tokenizer, positions
from .rendering import Rendered, Renderer, stop_tokens

MODEL = "model.onnx"
PAST = "past."


class OnnxTeacher:
    """Answers with an exported folder: `model.onnx`, config.json and a tokenizer.

    Args:
        threads: of one pass; 0 for every core. Speed only.

    Raises:
        BadInput: onnxruntime is not installed, or cannot read the folder.
    """

    def __init__(self, folder: Path, *, threads: int = 0, where: str = "export") -> None:
        import transformers as hf

        self._file = folder / MODEL
        self._session = _session(self._file, threads, where)
        self._past = [given for given in self._session.get_inputs() if given.name.startswith(PAST)]
        config = load_config(folder, "main", where)
        labels = {} if self._past else {label: int(place) for place, label in config.id2label.items()}
        tokenizer = load_tokenizer(folder, "main", where)
        self._labels = frozenset(labels)
        # A label's "token" is its place among the logits; to what only reads it takes no position.
        reads_only = tokenizer.chat_template is None
        context = positions(config, tokenizer) + 1 if reads_only else getattr(config, "max_position_embeddings", None)
        self._renderer = Renderer(tokenizer, context, labels)
        ends = hf.GenerationConfig.from_pretrained(folder).eos_token_id if self._past else None
        self._stops = stop_tokens(ends, tokenizer)

    @property
    def name(self) -> str:
        return f"{self._content}@main"

    @property
    def identity(self) -> dict[str, str]:
        return {"kind": "onnx", "model": self._content, "revision": "main"}

    @cached_property
    def _content(self) -> str:
        with open(self._file, "rb") as opened:
            return f"{self._file.parent.name}-{hashlib.file_digest(opened, 'sha256').hexdigest()[:16]}"

    async def answer(self, prompt: Prompt, sampling: Sampling) -> Answer | Failed:
        if sampling.temperature:
            return Failed(prompt.id, "sampling", "an exported student answers greedily; set temperature = 0")
        if not self._labels.issuperset(prompt.choices) or bool(self._labels) != bool(prompt.choices):
            answers = f"one of {len(self._labels)} labels" if self._labels else "text"
            return Failed(prompt.id, "choices", f"{self._file} answers with {answers}, and something else was asked")
        row = self._renderer.render(prompt, sampling)
        if isinstance(row, Failed):
            return row
        return self._score(row) if prompt.choices else self._write(row, sampling.max_tokens)

    async def close(self) -> None:
        """Nothing to give back: the session's memory goes with the object."""

    def _score(self, row: Rendered) -> Answer:
        """Natural log-probability of every choice, normalised over the choices."""
        import numpy as np

        ids_1T = np.array([row.ids])
        (logits_1L,) = self._session.run(None, {"input_ids": ids_1T, "attention_mask": np.ones_like(ids_1T)})
        logits = logits_1L[0, [place for (place,) in row.choices]].astype(np.float64)
        logits -= logits.max()
        return row.scored((logits - np.log(np.exp(logits).sum())).tolist())

    def _write(self, row: Rendered, most: int) -> Answer:
        """The likeliest token after another, until one ends the answer."""
        import numpy as np

        past = {given.name: np.zeros((1, given.shape[1], 0, given.shape[3]), np.float32) for given in self._past}
        said: list[int] = []
        new, seen, stopped = row.ids, 0, False
        while len(said) < most and not stopped:
            seen += len(new)
            read = {"input_ids": np.array([new]), "attention_mask": np.ones((1, seen), np.int64)}
            logits_1V, *present = self._session.run(None, read | past)
            past = dict(zip(past, present, strict=True))
            new = [int(logits_1V[0].argmax())]
            said += new
            stopped = new[0] in (*self._stops, *row.ends)
        text = self._renderer.written(said[:-1] if stopped else said)
        return Answer(row.prompt.id, text, "stop" if stopped else "length", len(row.ids), len(said))


def _session(file: Path, threads: int, where: str) -> Any:
    try:
        import onnxruntime as ort
    except ModuleNotFoundError:
        raise BadInput(f"{where}: there is no module 'onnxruntime'; run `pip install 'understudy[onnx]'`") from None
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library's own have no base class of their own
        raise BadInput(f"{where}: {file} cannot be loaded: {in_a_line(error)}; export it again") from None
