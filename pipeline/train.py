"""Stage: a student learns the curated rows, once for every seed; the seed best on the validation side is kept."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, overload

from ..data.artifact import Artifact
from ..data.errors import BadInput
from ..data.rows import Example, Failed, Prompt, message_dicts
from ..data.teacher import Sampling
from ..students.config import FINISHED, Dense, Encoder, Hub, Layers, OnPolicy, Preference, StudentRecipe, Upcycle, count
from ..students.records import FILE
from ..teachers.encoder import PretrainedEncoder
from ..teachers.rendering import Rendered, Renderer
from ..teachers.transformers import TransformersTeacher, find_model
from .ask import label_values
from .context import Run
from .examples import read_examples
from .executor import LocalExecutor
from .outcome import Outcome
from .preference import rank
from .tokens import differing

if TYPE_CHECKING:
    from ..students.crew import Crew
    from ..students.cut import Larger
    from ..students.hub import Pretrained
    from ..students.on_policy import Lead
    from ..students.preference import Ranked
    from ..students.sft import Show
    from ..students.weights import Source, TrainingRows

VERSION = 3

Reads = Callable[[Run], "TrainingRows"]
"""What finds a student's rows by way of any run on the same root; it travels to where the learning is done."""


def train(run: Run, artifact: Artifact, curated: Artifact, name: str) -> Outcome:
    """Train every seed into ``seed-<n>``; a finished seed is not trained again.

    Without rows for validation the first seed is kept.

    Raises:
        BadInput: the recipe asks for what the rows, the teacher or this machine do not have.
    """
    run.rest()  # an engine of the teacher's would keep the memory that training needs
    refuse_what_does_not_fit(run, name)
    student = run.recipe.students[name]
    reads = partial(all_rows, curated.fingerprint)
    rows = reads(run)
    if rows.labels:
        _tell_of_one_label(run, rows.train())
    if student.train.labels == "soft" and not any(_soft(rows.train())):
        raise BadInput(
            f"students.{name}.train.labels = 'soft', but the teacher gave no probabilities; set label.logprobs or "
            "label.samples above 1, or use labels: auto"
        )
    for method in ("topk", "on_policy"):
        if student.learns_by(method):
            _check_vocabulary(run, student, method, f"students.{name}")
    validated = next(rows.validation(), None) is not None
    trained: list[dict[str, Any]] = []
    for seed in student.train.seeds:
        result = train_one(run, student, reads, f"{artifact.path}/seed-{seed}", seed, f"train {name}")
        agreed = f"validation {result['validation_agreement']:.1f}" if validated else "no rows for validation"
        said = [agreed, f"{result['parameters']:,} parameters", f"{result['seconds']:.0f} s"]
        if result["best"] is not None:
            said.append(f"{result['steps']} of {result['planned']} steps, with the weights of step {result['best']}")
        run.reporter.say(f"  seed {seed}: {', '.join(said)}")
        trained.append({"seed": seed, **result})
    clear(artifact)
    chosen = max(trained, key=lambda result: (result["validation_agreement"], -(result["validation_loss"] or 0.0)))
    return Outcome(summary={"seeds": trained, "chosen": chosen["seed"]})


def all_rows(curated: str, run: Run) -> TrainingRows:
    """The rows that curation left, whose fingerprint it is."""
    from ..students.weights import TrainingRows

    artifact = Artifact(run.storage, "curate", curated)
    return TrainingRows(
        train=lambda: read_examples(artifact, "train"),
        validation=lambda: read_examples(artifact, "validation"),
        labels=tuple(run.recipe.labels),
    )


def train_one(run: Run, student: StudentRecipe, rows: Reads, path: str, seed: int, title: str) -> dict[str, Any]:
    """One training, method after method, shown while it goes on.

    Args:
        path: of the student's folder, below the run's root.

    Returns:
        What `train_student` says of the last method, without infinities, with the seconds of all; and under `methods`
        what it says of each, where there are several.
    """
    phases = student.phases()
    learnt: list[dict[str, Any]] = []
    before: str | None = None
    for place, phase in enumerate(phases):
        method = phase.train.method[0].kind
        last = place + 1 == len(phases)
        into = path if last else f"{path}/work/{place}-{method}"
        beside, told = _beside(run, phase, rows, before or path, into)
        learning = LearnMethod(phase, rows, into, seed, before, beside)
        learnt.append({**_learn(run, learning, title if len(phases) == 1 else f"{title}: {method}"), **told})
        before = into
        if not last and (record := run.storage.fetch(into) / FILE).exists():
            shutil.copyfile(record, run.storage.local(path) / f"health-{place}-{method}.jsonl")  # `work` is removed
    if len(learnt) == 1:
        return learnt[0]
    seconds = round(sum(result["seconds"] for result in learnt), 1)
    methods = [{"method": phase.train.method[0].kind, **done} for phase, done in zip(phases, learnt, strict=True)]
    return {**learnt[-1], "seconds": seconds, "methods": methods}


@dataclass(frozen=True)
class LearnMethod:
    """One method of one student, wherever it is learnt."""

    student: StudentRecipe
    rows: Reads
    path: str
    seed: int
    before: str | None
    """Folder in which an earlier method left the student, below the run's root."""
    beside: Sequence[Ranked] | Lead | None = None
    """What it learns from beside the rows; that does not travel."""

    def __call__(self, run: Run, show: Show, crew: Crew) -> dict[str, Any]:
        from ..students.trainer import train_student

        folder = run.storage.fetch(self.path)
        source = partial(_learnt, run, self.before) if self.before else _loads_source(run, self.student)
        return train_student(self.student, self.rows(run), folder, self.seed, show, source, self.beside, crew)


def _beside(
    run: Run, phase: StudentRecipe, rows: Reads, before: str, into: str
) -> tuple[Sequence[Ranked] | Lead | None, dict[str, Any]]:
    """What a method learns from beside the rows, and what there is to say of it.

    Args:
        before: folder of the student as the method before left it.
    """
    method, folder = phase.train.method[0], run.storage.fetch(into)
    if (folder / FINISHED).exists():
        return None, {}
    if isinstance(method, Preference):
        ranking = rank(run, phase, rows(run).train(), run.storage.fetch(before), folder / "work")
        run.rest()
        return ranking.pairs, {"answers": ranking.counts}
    return (_lead(run) if isinstance(method, OnPolicy) else None), {}


def _lead(run: Run) -> Lead:
    """The labelling teacher in memory, asked as the label stage asks."""
    from ..students.on_policy import Lead

    name = run.recipe.teacher_of("label")
    model, tokenizer = run.weights(name)
    renderer = Renderer(tokenizer, None, None)

    def asked(texts: Sequence[str]) -> list[list[int]]:
        prompts = (Prompt("", run.label_template.render(label_values(run.recipe, text))) for text in texts)
        rendered = [renderer.render(prompt, Sampling()) for prompt in prompts]
        for row in rendered:
            if isinstance(row, Failed):
                raise BadInput(f"teacher {name}: {row.message}")
        return [row.ids for row in rendered if isinstance(row, Rendered)]

    return Lead(model, asked)


def _learn(run: Run, learning: LearnMethod, title: str) -> dict[str, Any]:
    executor = run.executor if learning.beside is None else LocalExecutor()
    with run.reporter.track(title, None, "steps") as tracker:

        def show(step: int, steps: int, detail: str) -> None:
            tracker.expect(steps)
            tracker.advance(lambda: detail, to=step)

        result = executor.learn(run, learning, show)
    run.tell(f"{title}: {alarm}" for alarm in result["alarms"])
    loss = result["validation_loss"]
    return {**result, "validation_loss": loss if math.isfinite(loss) else None}


def clear(artifact: Artifact) -> None:
    """Remove what only an interrupted training needs."""
    for folder in artifact.storage.folders(artifact.path):
        artifact.storage.delete(f"{folder}/work")


def _loads_source(run: Run, student: StudentRecipe) -> Callable[[], Source] | None:
    """What loads the model that a student is cut from, or begins as; None for one from nothing."""
    if begun := student.begins_as:
        return partial(_pretrained, run, begun)
    if isinstance(student.init, Dense) and student.init.tokenizer == "teacher":
        return partial(_reads_alike, run, run.recipe.teacher_of("label"))
    return partial(_larger, run, student.init.teacher) if isinstance(student.init, Layers) else None


def _learnt(run: Run, path: str) -> Source:
    """The student as an earlier method left it."""
    from ..students.weights import Learnt

    return Learnt(run.storage.fetch(path))


def _larger(run: Run, teacher: str) -> Larger:
    """The model of a teacher that a student is cut from, asked as the label stage asks."""
    from ..students.cut import Larger
    from ..students.hub import Pretrained, student_tokenizer

    def asked(text: str) -> list[dict[str, Any]]:
        return message_dicts(run.label_template.render(label_values(run.recipe, text)))

    where, (model, tokenizer) = f"teacher {teacher}", run.weights(teacher)
    return Larger(model, student_tokenizer(Pretrained(model, tokenizer, where), ()), where, asked)


def _pretrained(run: Run, init: Hub | Encoder) -> Pretrained:
    from ..students.hub import Pretrained

    return Pretrained(*begun_from(run, init).weights(), f"init.model = {init.model}")


def _reads_alike(run: Run, teacher: str) -> Pretrained:
    """Of a student from scratch, the tokenizer alone."""
    from ..students.hub import Pretrained

    return Pretrained(None, run.tokenizer(teacher), f"teacher {teacher}")


def _check_vocabulary(run: Run, student: StudentRecipe, method: str, where: str) -> None:
    """Refuse a student whose tokens are others than the teacher's.

    Raises:
        BadInput: it names the first token in which they differ.
    """
    if not isinstance(student.init, Hub):
        return
    teacher = run.tokenizer(run.recipe.teacher_of("label"))
    if apart := differing(begun_from(run, student.init).tokenizer(), teacher):
        number, ours, theirs = apart[0]
        raise BadInput(
            f"{where}: method {method} needs the teacher's tokenizer, and {len(apart):,} tokens differ: number "
            f"{number} is {ours!r} for {student.init.model} and {theirs!r} for the teacher; begin with a model of the "
            "teacher's family, use init: {kind: dense, tokenizer: teacher}, or method: [sft]"
        )


def refuse_what_does_not_fit(run: Run, name: str) -> str:
    """What training a student will take in memory, in words.

    Raises:
        BadInput: it is more than there is, or the model that the student begins as cannot be loaded.
        TeacherUnreachable: the hub does not answer for that model.
    """
    from ..students.memory import available, needed

    parameters, learning = _size(run, name)
    wanted, there = needed(parameters, learning), available()
    some = "" if learning is None else f", with {learning:,} beside them that learn,"
    said = f"{parameters:,} parameters{some} take about {wanted / 1e9:.1f} GB in training"
    said += f", and there are {there / 1e9:.1f}"
    if wanted > there:
        raise BadInput(f"students.{name}: {said}; choose a smaller model, or a machine with more memory")
    return said


def _size(run: Run, name: str) -> tuple[int, int | None]:
    """Parameters of a student and of its adapters, if it has any, before one is allocated."""
    from ..students.lora import adapted_size
    from ..students.upcycle import upcycled_shape

    student = run.recipe.students[name]
    init, begun, lora = student.init, student.begins_as, student.train.lora
    if begun is None:
        assert not isinstance(init, Hub)
        assert init.parameters is not None, "what begins as no model has a size"
        return count(init.parameters), None
    source = begun_from(run, begun)
    _check_positions(source, student, f"students.{name}")
    model = source.shape()
    if isinstance(init, Upcycle):
        model = upcycled_shape(model, init, f"init.model = {init.model}")
    parameters = int(model.num_parameters())
    return parameters, adapted_size(model, lora, len(run.recipe.labels) + 1) if lora else None


def _check_positions(model: TransformersTeacher | PretrainedEncoder, student: StudentRecipe, where: str) -> None:
    """Refuse rows longer than an encoder can read: it counts positions, and has learnt so many."""
    if isinstance(model, PretrainedEncoder) and student.train.max_length > (most := model.positions()):
        found = f"{where}.train.max_length = {student.train.max_length}"
        raise BadInput(f"{found}, and {model.source} reads {most} tokens at most; lower it")


@overload
def begun_from(run: Run, init: Hub) -> TransformersTeacher: ...
@overload
def begun_from(run: Run, init: Hub | Encoder) -> TransformersTeacher | PretrainedEncoder: ...
def begun_from(run: Run, init: Hub | Encoder) -> TransformersTeacher | PretrainedEncoder:
    """The model that a student begins as, before it learnt anything of the task."""
    assert init.model is not None, "one from scratch begins as nothing"
    where = f"init.model = {init.model}"
    model = find_model(init.model, run.folder, where)
    if isinstance(init, Encoder):
        return PretrainedEncoder(model, init.revision, tuple(run.recipe.labels), init.layers, where)
    return TransformersTeacher(model, revision=init.revision, where=where)


def _tell_of_one_label(run: Run, rows: Iterator[Example]) -> None:
    """A student that has seen one label says it, whatever it reads; the verdict will be about that."""
    said: set[str] = set()
    for row in rows:
        said.add(row.output)
        if len(said) > 1:
            return
    if said:
        run.tell(
            [
                f"train: every row has the label '{said.pop()}', and a student learns to tell two or more apart; add "
                "inputs of other labels, or see with `understudy preview` what the teacher says"
            ]
        )


def _soft(rows: Iterator[Example]) -> Iterator[bool]:
    return (row.probs is not None for row in rows)
