"""A teacher as an LLM of distilabel, for any of its Tasks, and for Pipelines that users have already."""

from __future__ import annotations

import asyncio
import pickle
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Protocol

from pydantic import ConfigDict, Field, PrivateAttr, ValidationError, computed_field, field_validator

from ...data.config import refusal
from ...data.errors import BadInput
from ...data.fingerprint import canonical, digest
from ...data.rows import Answer, Failed, Message, Prompt
from ...data.teacher import Sampling, Teacher
from .library import LLM, MagpieChatTemplateMixin, quietly

_FENCE = re.compile(r"\s*```\w*\n(.*?)\n?```\s*", re.DOTALL)
_GREEDY = Sampling()
_ALONE = threading.Lock()


@dataclass(frozen=True, slots=True)
class Request:
    """What one call of `generate` wants to know."""

    teacher: Teacher
    prompts: list[Prompt]
    sampling: Sampling

    async def ask(self) -> list[Answer | Failed]:
        """One answer per prompt, in order."""
        return await asyncio.gather(*(self.teacher.answer(prompt, self.sampling) for prompt in self.prompts))


class Asker(Protocol):
    """On whose behalf a Task is run."""

    id: str
    """Id of the prompts."""

    seed: int
    """Index of the first draw."""

    def answers(self, request: Request) -> Sequence[Answer | Failed]:
        """One answer per prompt, in order."""
        ...


ASKER: ContextVar[Asker | None] = ContextVar("asker", default=None)
"""Set around `process` by whoever has the answers; elsewhere a `TeacherLLM` asks for itself."""


class TeacherLLM(LLM, MagpieChatTemplateMixin):  # type: ignore[misc]
    """Asks a teacher of ours; as a rule a `RecordedTeacher`, so that nothing is asked twice.

    `generate` blocks its thread. A failed prompt is None among its generations. Log-probabilities are not asked for,
    because a Task reads text only. Where a Task of Magpie wants the user's next turn, the prompt leaves that turn open.

    A Pipeline of distilabel runs every step in a process of its own: there `teacher` is a function that builds the
    teacher, its ledger included. A Pipeline takes an error for a batch without answers, and goes on.
    """

    model_config = ConfigDict(defer_build=True)

    teacher: Teacher | Callable[[], Teacher] | None = Field(None, exclude=True, repr=False)
    """Who answers, or what builds it where it is used and can be pickled; None where a pipeline.yaml is read."""

    loop: asyncio.AbstractEventLoop | None = Field(None, exclude=True, repr=False)
    """A running loop that `generate`, in other threads, has the teacher answer on, many calls at once; absent: each
    call runs a loop of its own, one call after the other."""

    structured_output: dict[str, Any] | None = None
    """`schema`: the JSON Schema, or pydantic class, that answers are asked to follow."""

    magpie_pre_query_template: str | None = ""
    """Stays empty: the teacher's own chat template says where a turn begins."""

    _built: Teacher | None = PrivateAttr(None)
    _drawn: Counter[tuple[Message, ...]] = PrivateAttr(default_factory=Counter)
    """How often each chat with a turn left open was asked, where there is no `ASKER`."""

    @computed_field(repr=False)  # type: ignore[prop-decorator]
    @property
    def asks(self) -> dict[str, str]:
        """Who answers: part of what a Pipeline caches by."""
        if isinstance(self.teacher, Teacher):
            return self.teacher.identity
        return {"builder": digest(pickle.dumps(self.teacher))}

    @field_validator("magpie_pre_query_template")
    @classmethod
    def _refuse_a_template(cls, given: str | None) -> str:
        if given:
            raise BadInput(
                "TeacherLLM: magpie_pre_query_template is given, and where a user's turn begins is said by the "
                "teacher's own chat template; remove it"
            )
        return ""

    @property
    def model_name(self) -> str:
        return self._teacher().name

    def generate(
        self,
        inputs: list[Any],
        num_generations: int = 1,
        temperature: float = _GREEDY.temperature,
        top_p: float = _GREEDY.top_p,
        max_new_tokens: int = _GREEDY.max_tokens,
    ) -> list[dict[str, Any]]:
        """One output per input, with ``num_generations`` texts and the tokens of each.

        Args:
            inputs: chats, or pairs of a chat and its own structured output.
            num_generations: draws, each asked for by itself.

        Raises:
            BadInput: what no teacher can be asked, or a loop that cannot answer.
            UnderstudyError: whatever the teacher raises.
        """
        given: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "max_tokens": max_new_tokens}
        try:
            sampling = Sampling(**given)
        except ValidationError as error:
            raise refusal(error, given, "TeacherLLM: generation_kwargs", Sampling) from None
        asker = ASKER.get()
        name, first = (asker.id, asker.seed) if asker else ("distilabel", 0)
        prompts = [self._prompt(one, name, first + draw) for one in inputs for draw in range(num_generations)]
        if asker is None:
            prompts = [self._next_draw(prompt) if prompt.open else prompt for prompt in prompts]
        request = Request(self._teacher(), prompts, sampling)
        answers = asker.answers(request) if asker else self._wait(request)
        parts = [slice(at, at + num_generations) for at in range(0, len(prompts), num_generations)]
        return [_output(prompts[part], answers[part]) for part in parts]

    def _prompt(self, given: Any, name: str, draw: int) -> Prompt:
        chat, structure = given if isinstance(given, tuple) else (given, None)
        if not isinstance(chat, list) or not all(isinstance(turn["content"], str) for turn in chat):
            raise BadInput("TeacherLLM: an input is no chat of texts; expected turns, each with a role and a text")
        messages = tuple(Message(turn["role"], turn["content"]) for turn in chat)
        users_turn = bool(self.use_magpie_template and (not messages or messages[-1].role != "user"))
        if users_turn:
            messages = (*messages, Message("user", ""))
        schema = _schema(structure or self.structured_output)
        return Prompt(name, messages, schema=schema, sample=draw, open=users_turn)

    def _next_draw(self, prompt: Prompt) -> Prompt:
        """The prompt as the next draw of its chat: where a turn is open, rows do not differ in what is asked."""
        self._drawn[prompt.messages] += 1
        return replace(prompt, sample=self._drawn[prompt.messages] - 1)

    def _teacher(self) -> Teacher:
        if self._built is None:
            if self.teacher is None:
                raise BadInput(
                    "TeacherLLM: there is no teacher, and no file of distilabel's holds one; give it `teacher`"
                )
            self._built = self.teacher if isinstance(self.teacher, Teacher) else self.teacher()
        return self._built

    def _wait(self, request: Request) -> list[Answer | Failed]:
        """Block this thread until a loop in another has the answers."""
        if self.loop is None:
            with _ALONE, ThreadPoolExecutor(1) as thread:  # a teacher may live on several loops, but not at once
                return thread.submit(asyncio.run, request.ask()).result()
        if not self.loop.is_running() or self.loop is asyncio._get_running_loop():
            found = "waits for this very call" if self.loop.is_running() else "is not running"
            raise BadInput(f"TeacherLLM: the loop that should answer {found}; use run_task, or asyncio.to_thread")
        return asyncio.run_coroutine_threadsafe(request.ask(), self.loop).result()


with quietly():
    TeacherLLM.model_rebuild()


def _schema(structure: Mapping[str, Any] | None) -> str:
    """The JSON Schema of a structured output, as text; empty for none."""
    if not structure:
        return ""
    form, schema = structure.get("format", "json"), structure.get("schema")
    if isinstance(schema, type) and hasattr(schema, "model_json_schema"):
        schema = schema.model_json_schema()
    if form != "json" or not isinstance(schema, dict):
        found = f"structured_output has format '{form}' and a schema of type {type(schema).__name__}"
        raise BadInput(f"TeacherLLM: {found}; expected format 'json' and a JSON Schema or a pydantic class")
    return canonical(schema)


def _output(prompts: Sequence[Prompt], answers: Sequence[Answer | Failed]) -> dict[str, Any]:
    """What an LLM of distilabel returns for one input; Tasks rely on the statistics even where nothing was said."""
    said = [answer if isinstance(answer, Answer) else None for answer in answers]
    texts = [_text(answer, prompt) if answer else None for answer, prompt in zip(said, prompts, strict=True)]
    statistics = {
        "input_tokens": [answer.input_tokens if answer else 0 for answer in said],
        "output_tokens": [answer.output_tokens if answer else 0 for answer in said],
    }
    return {"generations": texts, "statistics": statistics}


def _text(answer: Answer, prompt: Prompt) -> str:
    """What was said; where a schema asked for JSON, without the fence that chat models put around it."""
    fenced = _FENCE.fullmatch(answer.text) if prompt.schema else None
    return fenced[1] if fenced else answer.text
