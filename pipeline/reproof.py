"""An exported student on trial again: its file answers the rows of the judged test, beside what the student said.

The exported folder is all that is read of it. What it says is held against the student that was trained as the student
was against its teacher: the same rows, scorer, interval and margin. A file that loses more than the margin fails.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..data.artifact import Artifact
from ..data.rows import Prompt
from ..data.storage import LocalStorage
from ..data.teacher import Sampling, Teacher
from ..teachers.onnxruntime import MODEL, OnnxTeacher
from ..teachers.transformers import TransformersTeacher
from .contenders import TIMED, percentiles, replies, student_prompt, student_sampling
from .context import Run, versions
from .judge import judge_tests
from .progress import Tracker
from .scorers import scorer_of
from .statistics import Interval, share
from .table import Answers, TestRows
from .verdict import Verdict, judge
from .words import points, size

_WARM = 5
"""Messages before the timing, which load what is loaded late."""

_LONGEST = 60.0
"""Seconds after which no further message is timed."""

_FIRST_LINES = {
    "pass": "PASS: the {form} file may stand in for student '{student}'",
    "fail": "FAIL: the {form} file may not stand in for student '{student}'",
    "not_enough_data": "NOT ENOUGH DATA to say whether the {form} file may stand in for student '{student}'",
}


@dataclass(frozen=True, slots=True)
class Figures:
    """What a model weighs, and how long it takes for one message on one core."""

    bytes: int
    """Of its weights on disk."""
    latency_ms: dict[str, float] | None


@dataclass(frozen=True, slots=True)
class Reproof:
    """What came of it, for export.json and for people."""

    form: str
    student: str
    test: str
    sha256: dict[str, str]
    """Of each file of weights that was run."""
    identical: Interval
    """Share of rows with the student's own answer, in points."""
    verdict: Verdict
    """On exported minus trained."""
    exported: Figures
    trained: Figures

    def as_json(self) -> dict[str, Any]:
        runtime = {} if self.form == "safetensors" else {"onnxruntime": version("onnxruntime")}
        return {**asdict(self), "versions": versions() | runtime}

    def lines(self) -> Iterator[str]:
        """The decision, then what it rests on."""
        yield _FIRST_LINES[self.verdict.decision].format(form=self.form, student=self.student)
        low, high = points(self.identical.low), points(self.identical.high)
        yield f"{points(self.identical.value)}% identical answers (90% interval {low} to {high}); {self.verdict.reason}"
        said = f"{size(self.exported.bytes)} of weights against {size(self.trained.bytes)}"
        if (ours := self.exported.latency_ms) and (theirs := self.trained.latency_ms):
            said += f"; a message takes {_milliseconds(ours)} against {_milliseconds(theirs)}, on one core"
        yield said


def prove_again(run: Run, form: str, student: str, trained: Path, test: TestRows, exported: Path) -> Reproof:
    """Run an exported folder on a test, and judge it against what the student said there.

    Args:
        trained: the student's own folder, which is timed beside it.
        exported: an ONNX folder, or one that transformers loads.
    """
    labels, sampling = list(run.recipe.labels), student_sampling(run.recipe.students[student])
    prompts = [student_prompt(row.id, row.input, labels) for row in test.rows]
    with run.reporter.track(f"{form} on {test.name}", len(prompts)) as tracker:
        said, _ = asyncio.run(replies(run, _opened(exported), prompts, sampling, tracker))
    known = test.answers[student].outputs
    same = sum(ours == theirs for ours, theirs in zip(said.outputs, known, strict=True))
    verdict = _judged(run, test, student, said)
    latencies = _timed(run, (exported, trained), prompts[:TIMED], sampling)
    ours, theirs = (
        Figures(sum(file.stat().st_size for file in _weights(folder)), latency)
        for folder, latency in zip((exported, trained), latencies, strict=True)
    )
    digests = {file.name: _digest(file) for file in _weights(exported)}
    return Reproof(form, student, test.name, digests, share(same, len(prompts)), verdict, ours, theirs)


def _opened(folder: Path, threads: int = 0) -> Teacher:
    if (folder / MODEL).exists():
        return OnnxTeacher(folder, threads=threads)
    return TransformersTeacher(folder, batch=64, device="cpu")


def _weights(folder: Path) -> list[Path]:
    return sorted([*folder.glob(f"{MODEL}*"), *folder.glob("*.safetensors")])


def _digest(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _judged(run: Run, test: TestRows, student: str, said: Answers) -> Verdict:
    """The verdict on exported minus trained; where a teacher judges, it is asked about what the student did not say."""
    exported, theirs = f"{student}/exported", test.answers[student]
    known = Answers(theirs.outputs, theirs.confidence, theirs.scores)
    both = TestRows(test.name, test.gold, test.source, test.rows, {student: known, exported: said})
    scorer = scorer_of(run.recipe)
    if scorer is not None:
        said.scores = scorer(said.outputs, test.rows)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            judge_tests(run, Artifact(LocalStorage(Path(scratch)), "export", "judged"), [both])
    return judge(
        both.scores(exported),
        both.scores(student),
        both.roots,
        run.recipe.evaluate.margin,
        graded=run.recipe.graded,
        pair="exported minus trained",
    )


def _timed(
    run: Run, folders: Sequence[Path], prompts: Sequence[Prompt], sampling: Sampling
) -> list[dict[str, float] | None]:
    """Milliseconds of each, one message at a time and in turn, so that what else runs here slows all alike."""
    with (
        _one_core(),
        run.reporter.track("timing", len(prompts) + _WARM, "messages") as tracker,
    ):
        models = [_opened(folder, threads=1) for folder in folders]
        return asyncio.run(_latencies(models, prompts, sampling, tracker))


async def _latencies(
    models: Sequence[Teacher], prompts: Sequence[Prompt], sampling: Sampling, tracker: Tracker
) -> list[dict[str, float] | None]:
    taken: list[list[float]] = [[] for _ in models]
    begun = time.perf_counter()
    for number, prompt in enumerate([*prompts[:_WARM], *prompts]):
        if time.perf_counter() - begun > _LONGEST and number > 2 * _WARM:
            break
        for model, seconds in zip(models, taken, strict=True):
            started = time.perf_counter()
            await model.answer(prompt, sampling)
            if number >= _WARM:
                seconds.append(time.perf_counter() - started)
        tracker.advance()
    for model in models:
        await model.close()
    return [percentiles(seconds) for seconds in taken]


@contextmanager
def _one_core() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _milliseconds(latency: dict[str, float]) -> str:
    return f"{latency['p50']:.2g} ms (p95 {latency['p95']:.2g})"
