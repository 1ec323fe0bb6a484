"""Models that run in this process: a folder or a hub id, loaded by the library this module is named for.

Prompts that wait are answered together: a model of 2M parameters writes 300 tokens a second on one core for one prompt
and 3,000 for a batch of 32. There are no fixed waves: whatever waits when the model is free is the next batch, so a
lone prompt starts at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ..data.errors import BadInput
from ..data.rows import Answer, Failed, Prompt
from ..data.teacher import Sampling
from .classifier import LocalClassifier
from .kind import TeacherRecipe
from .loading import is_classifier, load_shape, load_tokenizer
from .local import LocalModel

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_REGROUPING = 0.002  # seconds at most in which those just answered may come back with their next prompt
_DECIDE_ANSWERS = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


class TransformersRecipe(TeacherRecipe):
    """A model in this process; `model` is a folder (relative to the recipe) or a hub id."""

    kind: Literal["transformers"]

    batch: int = Field(32, gt=0)
    """Prompts per forward pass; speed only."""

    concurrency: int = Field(256, gt=0)
    """Prompts waiting for a batch; speed only."""

    device: str | None = Field(None, pattern=r"^(cpu|cuda(:\d+)?)$")
    """Where it runs; absent: cuda when there is one, else cpu."""

    def build(self, name: str, folder: Path) -> TransformersTeacher:
        where = f"teacher {name}"
        model = find_model(self.model, folder, where)
        return TransformersTeacher(model, revision=self.revision, batch=self.batch, device=self.device, where=where)


def find_model(model: str, folder: Path, where: str) -> Path | str:
    """The folder that a recipe names, checked, else its hub id as it is.

    Args:
        folder: what a relative path is relative to.
        where: what a message begins with, such as `teacher lead`.

    Raises:
        BadInput: neither a hub id nor a folder, or a folder that cannot be loaded safely.
    """
    local = folder / Path(model).expanduser()
    if local.is_dir():
        check_model_folder(local, where)
        return local
    if not _HUB_ID.fullmatch(model):
        raise BadInput(f"{where}: there is no folder {local}; expected a model's folder, or a hub id: org/name")
    return model


def check_model_folder(folder: Path, where: str) -> None:
    """Refuse what cannot be loaded, or not safely, before anything is.

    Args:
        where: what the message begins with, such as `teacher lead`.

    Raises:
        BadInput: no config, no weights, pickle weights only, or no tokenizer.
    """
    if not (folder / "config.json").is_file():
        raise BadInput(f"{where}: {folder} has no config.json; expected a folder that save_pretrained wrote")
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(file.name for glob in ("pytorch_model*.bin", "*.pt", "*.pth") for file in folder.glob(glob))
        if pickles:
            found = f"{folder} holds only pickle weights ({', '.join(pickles)}), which can run code when loaded"
            raise BadInput(f"{where}: {found}; convert them to safetensors")
        raise BadInput(f"{where}: {folder} has no weights; expected *.safetensors")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        found = f"{folder} has no tokenizer (tokenizer.json or tokenizer_config.json)"
        raise BadInput(f"{where}: {found}; copy it from the model it was trained with")


@dataclass(frozen=True, slots=True)
class _Request:
    """A prompt that waits, and where its answer goes."""

    prompt: Prompt
    sampling: Sampling
    reply: asyncio.Future[Answer | Failed]

    @property
    def company(self) -> object:
        """Requests that may share a forward pass are equal here."""
        turn = self.prompt.messages[-1].role if self.prompt.open else ""
        return self.prompt.choices or self.sampling, turn

    @property
    def size(self) -> int:
        return sum(len(message.content) for message in self.prompt.messages)


class TransformersTeacher:
    """Answers with a local model, a batch at a time, in one thread of its own.

    The prompt is what the tokenizer's chat template makes of the messages; without a template, their contents joined by
    two newlines. A prompt with choices is answered by scoring them, any other by writing; a schema is not enforced.

    Args:
        model: a folder, or a hub id.
        batch: prompts per forward pass; speed only.
        where: what an error message begins with.
    """

    def __init__(
        self,
        model: Path | str,
        *,
        revision: str = "main",
        batch: int = 32,
        device: str | None = None,
        kind: str = "transformers",
        where: str = "teacher",
    ) -> None:
        self.batches = 0
        """Batches answered so far."""
        self._source = model
        self._revision = revision
        self._batch = batch
        self._device = device
        self._kind = kind
        self._where = where
        self._model: LocalModel | LocalClassifier | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="transformers")
        self._waiting: list[_Request] = []
        self._working: asyncio.Task[None] | None = None
        self._enough, self._wanted = asyncio.Event(), 1

    @property
    def name(self) -> str:
        return f"{self._content}@{self._revision}"

    @property
    def identity(self) -> dict[str, str]:
        """A folder is named by its content: changed weights are another model, a changed path is not."""
        return {"kind": self._kind, "model": self._content, "revision": self._revision}

    @cached_property
    def _content(self) -> str:
        return name_of(self._source)

    async def answer(self, prompt: Prompt, sampling: Sampling) -> Answer | Failed:
        loop = asyncio.get_running_loop()
        request = _Request(prompt, sampling, loop.create_future())
        if self._working is None or self._working.done() or self._working.get_loop() is not loop:
            self._waiting = []  # what an ended loop left behind has nobody to answer to
            self._working = loop.create_task(self._work())
        self._waiting.append(request)
        if len(self._waiting) >= self._wanted:
            self._enough.set()
        return await request.reply

    async def close(self) -> None:
        await asyncio.to_thread(self._thread.shutdown)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="transformers")
        self._model = None

    def facts(self) -> tuple[int, int]:
        """Parameters, tied ones counted once, and the bytes they take in memory."""
        model = self._loaded().model
        return model.num_parameters(), sum(weight.nbytes for weight in model.parameters())

    def weights(self) -> tuple[Any, Any]:
        """The model and its tokenizer, loaded for a student that is cut from it and kept by nobody else."""
        local = LocalModel(self._source, self._revision, self._device, self._batch, self._where)
        return local.model, local.tokenizer

    def tokenizer(self) -> Any:
        """Its tokenizer, loaded without the model."""
        return load_tokenizer(self._source, self._revision, self._where)

    def shape(self) -> Any:
        """The model without its weights, to count what it has."""
        return load_shape(self._source, self._revision, self._where)

    def _loaded(self) -> LocalModel | LocalClassifier:
        if self._model is None:
            self._model = self._load()
        return self._model

    def _load(self) -> LocalModel | LocalClassifier:
        kind = LocalClassifier if is_classifier(self._source, self._revision, self._where) else LocalModel
        return kind(self._source, self._revision, self._device, self._batch, self._where)

    async def _work(self) -> None:
        """Answer batches until nothing waits."""
        while batch := self._take():
            job = asyncio.get_running_loop().run_in_executor(self._thread, self._answers, batch)
            try:
                await asyncio.wait([job])
            finally:
                job.cancel()  # where the loop is ending, the thread must not report back to it
            self.batches += 1
            for position, request in enumerate(batch):
                if request.reply.done():
                    continue  # cancelled meanwhile
                if error := job.exception():
                    request.reply.set_exception(error)
                else:
                    request.reply.set_result(job.result()[position])
            if len(self._waiting) < self._batch:
                await self._regrouped(len(batch))

    async def _regrouped(self, answered: int) -> None:
        """Give as many as were just answered a moment to come back: who asks alone does not wait for others."""
        self._enough, self._wanted = asyncio.Event(), answered
        with suppress(TimeoutError):
            await asyncio.wait_for(self._enough.wait(), _REGROUPING)

    def _take(self) -> list[_Request]:
        """The request that waited longest, and those nearest to it in size that may keep it company."""
        waiting = [request for request in self._waiting if not request.reply.done()]
        if not waiting:
            self._waiting = []
            return []
        first = waiting[0]
        fitting = [request for request in waiting if request.company == first.company]
        batch = sorted(fitting, key=lambda request: abs(request.size - first.size))[: self._batch]
        taken = {id(request) for request in batch}
        self._waiting = [request for request in waiting if id(request) not in taken]
        return batch

    def _answers(self, batch: list[_Request]) -> list[Answer | Failed]:
        """One answer per request, in order; runs in the thread."""
        return self._loaded().answer(
            [request.prompt for request in batch],
            batch[0].sampling,
            abandoned=lambda: all(request.reply.done() for request in batch),
        )


def name_of(model: Path | str) -> str:
    """A hub id as it is; a folder's name and sixteen hex digits of all in it that decides answers."""
    if isinstance(model, str):
        return model
    folder, whole = model.resolve(), hashlib.sha256()
    named = [folder / name for name in (*_DECIDE_ANSWERS, "chat_template.jinja")]
    for file in [*named, *sorted(folder.glob("*.safetensors"))]:
        if file.is_file():
            with open(file, "rb") as opened:
                whole.update(f"{file.name}\0{hashlib.file_digest(opened, 'sha256').hexdigest()}\0".encode())
    return f"{folder.name}-{whole.hexdigest()[:16]}"
