"""What stands in a run's way, looked at before it starts: nothing is asked of a teacher that costs, nothing trained."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import islice
from typing import Literal

from ..data.errors import UnderstudyError
from ..data.filters import Language
from ..students.config import Dense, Hub, StudentRecipe
from ..students.watchers import check_watchers
from ..teachers.openai import OpenAIRecipe
from .context import Run
from .run import refuse_what_a_later_stage_would
from .tokens import differing
from .train import begun_from, refuse_what_does_not_fit

_LOOKED_AT = 1000
"""Inputs whose lengths are measured."""

_SECONDS = 10.0
"""For an endpoint to answer."""

_LEAST_DISK = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: Literal["ok", "look", "fix"]
    """`look` may be as it should be; `fix` stops the run."""
    said: str

    def line(self) -> str:
        return f"{self.state:<5} {self.what}: {self.said}"


def doctor(run: Run) -> Iterator[Finding]:
    """Everything that can be told without a run."""
    yield _sound("inputs", partial(_inputs, run))
    yield _disk(run)
    yield from _extras(run)
    for name in run.recipe.teachers:
        yield _sound(f"teacher {name}", partial(_teacher, run, name))
    for name, student in run.recipe.students.items():
        yield from _student(run, name, student)


def _sound(what: str, look: Callable[[], Finding | str]) -> Finding:
    """What a look finds; a refusal is the same that the run would end with."""
    try:
        found: Finding | str = look()
    except UnderstudyError as error:
        return Finding(what, "fix", str(error))
    return found if isinstance(found, Finding) else Finding(what, "ok", found)


def _inputs(run: Run) -> str:
    refuse_what_a_later_stage_would(run)
    counts = [f"{sum(1 for _ in run.unlabeled())} unlabeled"] if run.recipe.task.unlabeled else []
    counts += [f"{len(rows)} in test {name}" for name, rows in run.gold().items()]
    return ", ".join(["files and templates are read", *counts])


def _disk(run: Run) -> Finding:
    free = shutil.disk_usage(run.storage.local("")).free
    state: Literal["ok", "look"] = "ok" if free > _LEAST_DISK else "look"
    return Finding("disk", state, f"{free / 1e9:.1f} GB free under {run.storage.local('')}")


def _extras(run: Run) -> Iterator[Finding]:
    """Packages that this recipe needs and the base install has not."""
    recipe = run.recipe
    wanted = {
        "vllm": ("vllm", any(teacher.kind == "vllm" for teacher in recipe.teachers.values())),
        "lora": ("peft", any(student.train.lora for student in recipe.students.values())),
        "rouge": ("rouge_score", recipe.metric == "rouge_l"),
        "language": ("py3langid", any(isinstance(one, Language) for one in recipe.curate.filters)),
        "meaning": ("sentence_transformers", recipe.curate.meaning is not None),
        "s3": ("s3fs", recipe.publish is not None and "s3://" in f"{recipe.publish.dataset} {recipe.publish.model}"),
    }
    for extra, (module, needed) in wanted.items():
        if needed:
            there = find_spec(module) is not None
            said = "installed" if there else f"not installed; pip install 'understudy[{extra}]'"
            yield Finding(f"extra {extra}", "ok" if there else "fix", said)


def _teacher(run: Run, name: str) -> Finding | str:
    recipe = run.recipe.teachers[name]
    who = run.teacher_identity(name)
    if not isinstance(recipe, OpenAIRecipe):
        return f"{who['kind']} {who['model']}"
    return asyncio.run(_reached(name, recipe))


async def _reached(name: str, recipe: OpenAIRecipe) -> Finding:
    """Whether the endpoint answers the cheapest question there is: which models it has."""
    import aiohttp

    key = os.environ.get(recipe.api_key_env, "") if recipe.api_key_env else ""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    what = f"teacher {name}"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_SECONDS)) as session,
            session.get(f"{recipe.base_url.rstrip('/')}/models", headers=headers) as reply,
        ):
            status, body = reply.status, await reply.json(content_type=None) if reply.status == 200 else {}
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Finding(what, "fix", f"{recipe.base_url} does not answer ({said}); start it, or correct base_url")
    if status in (401, 403):
        return Finding(
            what, "fix", f"{recipe.base_url} refuses the key ({status}); set {recipe.api_key_env or 'api_key_env'}"
        )
    names = [one.get("id") for one in body.get("data", ())] if isinstance(body, dict) else []
    if names and recipe.model not in names:
        shown = ", ".join(map(str, names[:5]))
        return Finding(what, "look", f"{recipe.base_url} answers, and does not list '{recipe.model}'; it lists {shown}")
    return Finding(what, "ok", f"{recipe.base_url} answers")


def _student(run: Run, name: str, student: StudentRecipe) -> Iterator[Finding]:
    what = f"student {name}"
    yield _sound(what, partial(refuse_what_does_not_fit, run, name))
    if student.train.report_to:
        yield _sound(f"{what}, report_to", partial(_watched, student))
    if isinstance(student.init, Hub):
        yield _sound(f"{what}, tokens", partial(_vocabulary, run, student.init))
    if student.begins_as or (isinstance(student.init, Dense) and student.init.tokenizer == "teacher"):
        yield _sound(f"{what}, lengths", partial(_lengths, run, student, f"{what}, lengths"))


def _watched(student: StudentRecipe) -> str:
    check_watchers(student.train.report_to)
    return f"{', '.join(student.train.report_to)} installed"


def _vocabulary(run: Run, init: Hub) -> str:
    """Whether the student reads the teacher's tokens, which decides what it may learn from."""
    teacher = run.recipe.teacher_of("label")
    if run.recipe.teachers[teacher].kind not in ("transformers", "vllm"):
        return f"the teacher does not tell its tokens: {_methods(run, teacher, alike=False)}"
    student = begun_from(run, init)
    tokenizer = student.tokenizer()
    if apart := differing(tokenizer, run.tokenizer(teacher)):
        return f"{len(apart):,} tokens are not the teacher's: {_methods(run, teacher, alike=False)}"
    padding = student.shape().get_input_embeddings().num_embeddings - len(tokenizer)
    padded = f", and {padding:,} rows of padding that nothing is read as" if padding > 0 else ""
    return f"the teacher's tokens{padded}: {_methods(run, teacher, alike=True)}"


def _methods(run: Run, teacher: str, *, alike: bool) -> str:
    """What a student may learn by, and so what a recipe may name."""
    if run.recipe.labels:
        return "method sft, which learns the teacher's probabilities of labels"
    beside = ["on_policy"] if run.recipe.teachers[teacher].kind == "transformers" else []
    return f"methods {', '.join(['sft', *(['topk', *beside] if alike else []), 'preference'])}"


def _lengths(run: Run, student: StudentRecipe, what: str) -> Finding | str:
    """How many inputs lose their end at `max_length`, where the tokenizer is there before the training rows are."""
    if begun := student.begins_as:
        tokenizer = begun_from(run, begun).tokenizer()
    else:
        tokenizer = run.tokenizer(run.recipe.teacher_of("label"))
    texts = [source.input for source in islice(run.unlabeled(), _LOOKED_AT)]
    if not texts:
        return "no input to measure yet"
    most = student.train.max_length
    lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    long = sum(length > most for length in lengths)
    said = f"{long} of {len(texts)} inputs are longer than max_length = {most}; the longest has {max(lengths)} tokens"
    return Finding(what, "look", f"{said}; raise train.max_length") if long else said
