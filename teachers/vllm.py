"""A large model in this process's care: vLLM's asynchronous engine, which batches whatever is in flight.

One engine lives from the first answer to `close`, in a thread with an event loop of its own, because every stage asks
from another loop. vLLM's `LLM` was weighed and left out: it answers lists, and the slowest prompt of a list holds back
the rest. Without a GPU an engine takes 10 to 25 s to start on one core.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, field_validator

from ..data.fingerprint import canonical
from ..data.rows import Answer, Failed, Prompt
from ..data.teacher import Sampling
from .engine import FIXED, Engine
from .kind import TeacherRecipe
from .loading import load_tokenizer
from .transformers import find_model, name_of

_NO_OPTIONS = {"model", "revision", "tokenizer", "tokenizer_revision", "code_revision", "hf_token", *FIXED}
_DECIDE_ANSWERS = {"dtype", "quantization", "kv_cache_dtype", "hf_overrides", "override_generation_config"}

Result = TypeVar("Result")


class VllmRecipe(TeacherRecipe):
    """A model that vLLM runs; `model` is a folder (relative to the recipe) or a hub id."""

    kind: Literal["vllm"]

    concurrency: int = Field(256, gt=0)
    """Prompts in flight; the engine batches them. Speed only."""

    engine: dict[str, Any] = Field(default_factory=dict)
    """vLLM's engine arguments, such as `tensor_parallel_size`, handed on as they are."""

    @field_validator("engine")
    @classmethod
    def _leaves_what_is_fixed(cls, engine: dict[str, Any]) -> dict[str, Any]:
        if fixed := sorted(_NO_OPTIONS & engine.keys()):
            raise ValueError(
                f"'{fixed[0]}' is not an option here: `model` and `revision` have keys of their own, a token comes "
                "from HF_TOKEN, and nothing is loaded but safetensors; remove it"
            )
        return engine

    def build(self, name: str, folder: Path) -> VllmTeacher:
        where = f"teacher {name}"
        model = find_model(self.model, folder, where)
        return VllmTeacher(model, revision=self.revision, engine=self.engine, where=where)


class VllmTeacher:
    """Answers with one engine; usable from several event loops, one after the other.

    The prompt is what the tokenizer's chat template makes of the messages, as for `kind: transformers`. A prompt with
    choices is answered by scoring them all, one with a schema by text that obeys it.

    Args:
        model: a folder, or a hub id.
        engine: vLLM's engine arguments.
        where: what an error message begins with.
    """

    def __init__(
        self,
        model: Path | str,
        *,
        revision: str = "main",
        engine: Mapping[str, Any] | None = None,
        where: str = "teacher",
    ) -> None:
        self._source = model
        self._revision = revision
        self._arguments = dict(engine or {})
        self._where = where
        self._keeper: _Keeper | None = None

    @property
    def name(self) -> str:
        return f"{self._content}@{self._revision}"

    @property
    def identity(self) -> dict[str, str]:
        """A folder is named by its content; engine arguments count where answers depend on them."""
        deciding = {key: value for key, value in self._arguments.items() if key in _DECIDE_ANSWERS}
        engine = {"engine": canonical(deciding)} if deciding else {}
        return {"kind": "vllm", "model": self._content, "revision": self._revision, **engine}

    @cached_property
    def _content(self) -> str:
        return name_of(self._source)

    async def answer(self, prompt: Prompt, sampling: Sampling) -> Answer | Failed:
        if self._keeper is None:
            self._keeper = _Keeper(self._source, self._revision, self._arguments, self._where)
        return await self._keeper.answer(prompt, sampling)

    def tokenizer(self) -> Any:
        """Its tokenizer, loaded without the model."""
        return load_tokenizer(self._source, self._revision, self._where)

    async def close(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            await asyncio.to_thread(keeper.stop)


class _Keeper:
    """A thread with an event loop in which one engine lives."""

    def __init__(self, source: Path | str, revision: str, arguments: Mapping[str, Any], where: str) -> None:
        self._engine = (source, revision, arguments, where)
        self._starting: asyncio.Task[Engine] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()

    async def answer(self, prompt: Prompt, sampling: Sampling) -> Answer | Failed:
        return await asyncio.wrap_future(self._inside(self._answer(prompt, sampling)))

    def stop(self) -> None:
        """End the engine, its processes and the thread; what is still in flight is cancelled."""
        self._inside(self._end()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _inside(self, work: Coroutine[Any, Any, Result]) -> Future[Result]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _answer(self, prompt: Prompt, sampling: Sampling) -> Answer | Failed:
        if self._starting is None:  # once: what keeps the engine from starting is everybody's answer
            self._starting = asyncio.create_task(self._start())
        engine = await asyncio.shield(self._starting)
        return await engine.answer(prompt, sampling)

    async def _start(self) -> Engine:
        """Takes its time in the loop: nothing else could be done there meanwhile."""
        return Engine(*self._engine)

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._starting and not self._starting.cancelled() and not self._starting.exception():
            self._starting.result().close()
