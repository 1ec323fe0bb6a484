"""The stages that a recipe asks for, and what makes the rows of each.

A stage's fingerprint covers its version, its inputs and what stands here as `made_from`; whatever is left out, roots,
addresses, prices, worker counts, may change without a row being made again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..data.artifact import Artifact
from ..data.documents import document_files
from ..data.filters import Function
from ..data.sources import expand, inputs_fingerprint, unlabeled_fingerprint
from ..students.config import Layers, OnPolicy, Preference
from . import curate, curve, evaluate, generate, label, publish, train
from .config import GenerateStage
from .context import Run
from .meaning import identity
from .outcome import Outcome
from .strategies.kinds import Documents
from .strategies.tasks import TaskStrategy


@dataclass(frozen=True)
class Stage:
    """One node of a run: what it is made from, and how."""

    key: str
    """`label`, or `train:small` where a recipe has several of one kind."""
    version: int
    made_from: Mapping[str, Any]
    inputs: tuple[str, ...]
    work: Callable[[Run, Artifact, Mapping[str, Artifact]], Outcome]

    @property
    def name(self) -> str:
        return self.key.partition(":")[0]


def stages(run: Run) -> list[Stage]:
    """The stages of a recipe, inputs before what needs them."""
    recipe = run.recipe
    found = [_generate(run), _label(run), _curate(run)] if recipe.generate is not None else [_label(run), _curate(run)]
    if recipe.students:
        learnt = [_train(run, name) for name in recipe.students]
        if recipe.evaluate.curve and recipe.judged_student:
            learnt.append(_curve(run, recipe.judged_student))
        found += [*learnt, _evaluate(run, [stage.key for stage in learnt])]
    if recipe.publish is not None:
        found.append(_publish(run, [stage.key for stage in found]))
    return found


def _generate(run: Run) -> Stage:
    recipe = run.recipe
    assert recipe.generate is not None
    made_from: dict[str, Any] = {
        "task": _task(run),
        "split": _split(run),
        "seeds": _files(run, recipe.task.seeds, "task.seeds") if recipe.task.seeds else None,
        "teacher": _identity(run, "generate"),
        "generate": recipe.generate.model_dump(exclude={"teacher": True, "strategies": {"__all__": {"path"}}}),
        **_writing(run, recipe.generate),
        "duplicates": recipe.curate.duplicates.model_dump(),
    }
    return Stage("generate", generate.VERSION, made_from, (), lambda run, out, _: generate.generate(run, out))


def _label(run: Run) -> Stage:
    recipe = run.recipe
    made_from = {
        "task": _task(run),
        "split": _split(run),
        "unlabeled": unlabeled_fingerprint(recipe.task.unlabeled, run.folder) if recipe.task.unlabeled else None,
        **_answering(run),
    }
    written = ("generate",) if recipe.generate is not None else ()

    def work(run: Run, out: Artifact, given: Mapping[str, Artifact]) -> Outcome:
        return label.label(run, out, given.get("generate"))

    return Stage("label", label.VERSION, made_from, written, work)


def _curate(run: Run) -> Stage:
    made_from = {"curate": run.recipe.curate.model_dump(), "gold": _gold(run), **_curating(run)}

    def work(run: Run, out: Artifact, given: Mapping[str, Artifact]) -> Outcome:
        return curate.curate(run, out, given["label"])

    return Stage("curate", curate.VERSION, made_from, ("label",), work)


def _train(run: Run, name: str) -> Stage:
    def work(run: Run, out: Artifact, given: Mapping[str, Artifact]) -> Outcome:
        return train.train(run, out, given["curate"], name)

    return Stage(f"train:{name}", train.VERSION, _learning(run, name), ("curate",), work)


def _curve(run: Run, judged: str) -> Stage:
    def work(run: Run, out: Artifact, given: Mapping[str, Artifact]) -> Outcome:
        return curve.curve(run, out, given["curate"])

    return Stage("curve", curve.VERSION, _learning(run, judged), ("curate",), work)


def _evaluate(run: Run, learnt: Sequence[str]) -> Stage:
    """Judged by another student, slice or judge, answers are asked for anew; at another margin they are not."""
    recipe = run.recipe
    made_from = {
        "gold": _gold(run),
        **_answering(run),
        "task": _task(run),
        "evaluate": {
            "student": recipe.judged_student,
            "slices": recipe.evaluate.slices,
            "second_opinions": recipe.evaluate.second_opinions,
        },
        "metric": recipe.metric,
        "judge": _judge(run),
        "students": list(recipe.students),
    }

    def work(run: Run, out: Artifact, given: Mapping[str, Artifact]) -> Outcome:
        trained = {key.partition(":")[2]: made for key, made in given.items() if key.startswith("train:")}
        return evaluate.evaluate(run, out, given["curate"], trained, given.get("curve"))

    return Stage("evaluate", evaluate.VERSION, made_from, ("curate", *learnt), work)


def _publish(run: Run, made_of: Sequence[str]) -> Stage:
    assert run.recipe.publish is not None
    made_from = {"publish": run.recipe.publish.model_dump(), "margin": run.recipe.evaluate.margin}
    return Stage(
        "publish", publish.VERSION, made_from, tuple(made_of), lambda run, _, given: publish.publish(run, given)
    )


def _task(run: Run) -> dict[str, Any]:
    return run.recipe.task.model_dump(by_alias=True, exclude={"seeds", "unlabeled", "test", "scorer"})


def _split(run: Run) -> dict[str, Any]:
    return {**run.recipe.split.model_dump(), "gold": bool(run.recipe.task.test)}


def _gold(run: Run) -> dict[str, list[str]]:
    return {name: _files(run, path, f"task.test.{name}") for name, path in run.recipe.task.test.items()}


def _answering(run: Run) -> dict[str, Any]:
    """Who answers, asked with which words and how."""
    return {
        "teacher": _identity(run, "label"),
        "template": run.label_template.fingerprint,
        "label": run.recipe.label.model_dump(exclude={"teacher"}),
    }


def _writing(run: Run, stage: GenerateStage) -> dict[str, Any]:
    """What the strategies ask with, and the documents they read, by place."""
    strategies = list(enumerate(stage.strategies))
    return {
        "templates": {
            str(place): run.writing_template(one.kind).fingerprint
            for place, one in strategies
            if not isinstance(one, TaskStrategy)
        },
        "documents": {
            str(place): inputs_fingerprint(document_files(one.path, run.folder, f"generate.strategies.{place}.path"))
            for place, one in strategies
            if isinstance(one, Documents)
        },
    }


def _curating(run: Run) -> dict[str, Any]:
    """Who judges rows and with which words, the files they are compared with, and the user's own checks."""
    stage = run.recipe.curate
    made_from: dict[str, Any] = {}
    if stage.judge is not None:
        judge = {"teacher": run.teacher_identity(stage.judge.teacher), "template": run.rubric_template.fingerprint}
        made_from["judge"] = judge
    if stage.meaning is not None:
        made_from["meaning"] = identity(stage.meaning, run.folder)
    if stage.decontaminate and stage.decontaminate.files:
        files = stage.decontaminate.files
        made_from["benchmarks"] = [_files(run, path, "curate.decontaminate.files") for path in files]
    if own := [one.file(run.folder) for one in stage.filters if isinstance(one, Function)]:
        made_from["functions"] = inputs_fingerprint([file for file in own if file.is_file()])
    return made_from


def _learning(run: Run, name: str) -> dict[str, Any]:
    """What a student is made from, beside the rows."""
    student = run.recipe.students[name]
    learnt = student.model_dump(exclude={"control": True, "train": {"report_to", "when"}})
    made_from = {"student": learnt, "labels": list(run.recipe.labels)}
    if isinstance(student.init, Layers):
        made_from["cut_from"] = run.teacher_identity(student.init.teacher)
    if begun := student.begins_as:
        made_from["begun_from"] = train.begun_from(run, begun).identity
    for method in student.train.method:
        if isinstance(method, Preference):
            ranked_by = method.teacher or run.recipe.teacher_of("label")
            made_from["ranked_by"] = _comparing(run, ranked_by)
        elif isinstance(method, OnPolicy):
            made_from["lead"] = _answering(run)
    return made_from


def _identity(run: Run, stage: Any) -> dict[str, str]:
    return run.teacher_identity(run.recipe.teacher_of(stage))


def _judge(run: Run) -> dict[str, Any] | None:
    name = run.recipe.evaluate.judge
    return None if name is None else _comparing(run, name)


def _comparing(run: Run, teacher: str) -> dict[str, Any]:
    """Who says which of two answers is better, and with which words."""
    return {"teacher": run.teacher_identity(teacher), "template": run.judge_template.fingerprint}


def _files(run: Run, path: str, key: str) -> list[str]:
    return inputs_fingerprint(expand(path, run.folder, key))
