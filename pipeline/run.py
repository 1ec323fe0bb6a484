"""The runner: which stages a recipe asks for, what each is made from, and what is left to do.

A stage is a name, a version, the recipe fields that make its rows, and the fingerprints of its inputs; its output lives
at `stages/<name>-<fingerprint>`. A folder with a manifest is done. Roots, addresses, prices and worker counts are in no
fingerprint, so a run may move, grow and resume.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from ..data.artifact import Artifact
from ..data.documents import document_files
from ..data.errors import BadInput
from ..data.filters import Function
from ..data.fingerprint import fingerprint
from ..data.lock import Lock
from ..data.sources import expand, inputs_fingerprint, unlabeled_fingerprint
from ..students.config import Hub, Layers
from . import curate, curve, evaluate, generate, label, publish, train
from .ask import label_values
from .config import GenerateStage
from .context import Run, versions
from .garbage import NOTE
from .meaning import identity
from .outcome import Outcome
from .strategies.kinds import Documents
from .strategies.tasks import TaskStrategy

STAGES = ("generate", "label", "curate", "train", "curve", "evaluate", "publish")


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
    task = recipe.task.model_dump(by_alias=True, exclude={"seeds", "unlabeled", "test", "scorer"})
    split = recipe.split.model_dump()
    gold: dict[str, Any] = {name: _files(run, path, f"task.test.{name}") for name, path in recipe.task.test.items()}
    found: list[Stage] = []
    if recipe.generate is not None:
        made_from: dict[str, Any] = {
            "task": task,
            "split": {**split, "gold": bool(gold)},
            "seeds": _files(run, recipe.task.seeds, "task.seeds") if recipe.task.seeds else None,
            "teacher": _identity(run, "generate"),
            "generate": recipe.generate.model_dump(exclude={"teacher": True, "strategies": {"__all__": {"path"}}}),
            **_writing(run, recipe.generate),
            "duplicates": recipe.curate.duplicates.model_dump(),
        }
        found.append(
            Stage("generate", generate.VERSION, made_from, (), lambda run, out, _: generate.generate(run, out))
        )
    written = tuple(stage.key for stage in found)
    made_from = {
        "task": task,
        "split": {**split, "gold": bool(gold)},
        "unlabeled": unlabeled_fingerprint(recipe.task.unlabeled, run.folder) if recipe.task.unlabeled else None,
        "teacher": _identity(run, "label"),
        "label": recipe.label.model_dump(exclude={"teacher"}),
        "template": run.label_template.fingerprint,
    }
    found.append(
        Stage(
            "label",
            label.VERSION,
            made_from,
            written,
            lambda run, out, given: label.label(run, out, given.get("generate")),
        )
    )
    made_from = {"curate": recipe.curate.model_dump(), "gold": gold, **_curating(run)}
    found.append(
        Stage(
            "curate",
            curate.VERSION,
            made_from,
            ("label",),
            lambda run, out, given: curate.curate(run, out, given["label"]),
        )
    )
    for name in recipe.students:
        made_from = _learning(run, name)
        found.append(Stage(f"train:{name}", train.VERSION, made_from, ("curate",), partial(_train, name=name)))
    if recipe.students:
        trained = tuple(f"train:{name}" for name in recipe.students)
        if recipe.evaluate.curve and recipe.judged_student:
            found.append(Stage("curve", curve.VERSION, _learning(run, recipe.judged_student), ("curate",), _curve))
            trained += ("curve",)
        made_from = {
            "gold": gold,
            "teacher": _identity(run, "label"),
            "template": run.label_template.fingerprint,
            "label": recipe.label.model_dump(exclude={"teacher"}),
            "task": task,
            "evaluate": {
                "student": recipe.judged_student,
                "slices": recipe.evaluate.slices,
                "second_opinions": recipe.evaluate.second_opinions,
            },
            "metric": recipe.metric,
            "judge": _judge(run),
            "students": list(recipe.students),
        }
        found.append(Stage("evaluate", evaluate.VERSION, made_from, ("curate", *trained), _evaluate))
    if recipe.publish is not None:
        made_from = {"publish": recipe.publish.model_dump(), "margin": recipe.evaluate.margin}
        made_of = tuple(stage.key for stage in found)
        found.append(
            Stage("publish", publish.VERSION, made_from, made_of, lambda run, _, given: publish.publish(run, given))
        )
    return found


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
    made_from = {"student": student.model_dump(), "labels": list(run.recipe.labels)}
    if isinstance(student.init, Layers):
        made_from["cut_from"] = run.teacher_identity(student.init.teacher)
    if isinstance(student.init, Hub):
        made_from["begun_from"] = train.begun_from(run, student.init).identity
    return made_from


def _train(run: Run, artifact: Artifact, given: Mapping[str, Artifact], *, name: str) -> Outcome:
    return train.train(run, artifact, given["curate"], name)


def _curve(run: Run, artifact: Artifact, given: Mapping[str, Artifact]) -> Outcome:
    return curve.curve(run, artifact, given["curate"])


def _evaluate(run: Run, artifact: Artifact, given: Mapping[str, Artifact]) -> Outcome:
    trained = {key.partition(":")[2]: made for key, made in given.items() if key.startswith("train:")}
    return evaluate.evaluate(run, artifact, given["curate"], trained, given.get("curve"))


def _identity(run: Run, stage: Any) -> dict[str, str]:
    return run.teacher_identity(run.recipe.teacher_of(stage))


def _judge(run: Run) -> dict[str, Any] | None:
    name = run.recipe.evaluate.judge
    return None if name is None else {"teacher": run.teacher_identity(name), "template": run.judge_template.fingerprint}


def _files(run: Run, path: str, key: str) -> list[str]:
    return inputs_fingerprint(expand(path, run.folder, key))


def artifacts(run: Run) -> dict[str, tuple[Stage, Artifact]]:
    """Every stage of the run with its place, finished or not."""
    placed: dict[str, tuple[Stage, Artifact]] = {}
    for stage in stages(run):
        identity = {
            "stage": stage.name,
            "version": stage.version,
            "made_from": stage.made_from,
            "inputs": [placed[key][1].fingerprint for key in stage.inputs],
        }
        placed[stage.key] = (stage, Artifact(run.storage, stage.name, fingerprint(identity)))
    return placed


def run_stages(run: Run, until: str | None = None) -> dict[str, dict[str, Any]]:
    """Do what is not done yet, up to and including the stage ``until``; returns the manifests by stage.

    Raises:
        Locked: another run of this recipe works on this root.
        BadInput: the recipe has no such stage.
    """
    placed = artifacts(run)
    wanted = _needed(placed, until, run.loaded.path)
    manifests = {key: placed[key][1].manifest() for key in wanted}
    if all(manifest is not None for manifest in manifests.values()):
        return {key: manifest for key, manifest in manifests.items() if manifest is not None}
    _refuse_what_a_later_stage_would(run)
    finished: dict[str, dict[str, Any]] = {}
    told = False
    with Lock(run.storage, f"{run.recipe.name}/lock.json") as lock:
        run.storage.replace(f"{run.recipe.name}/recipe.yaml", run.loaded.text.encode())
        folders = {key: artifact.path for key, (_, artifact) in placed.items()}
        run.storage.replace(f"{run.recipe.name}/{NOTE}", json.dumps(folders, indent=2).encode())
        for key in wanted:
            stage, artifact = placed[key]
            manifest = artifact.manifest()
            if manifest is None:
                told = told or _tell_of_a_changed_recipe(run)
                run.reporter.event("stage", stage=key, fingerprint=artifact.fingerprint, state="started")
                manifest = _finish(run, lock, stage, artifact, placed)
                _tell(run, key, manifest)
            else:
                run.reporter.say(f"{key}: done before ({artifact.path})")
            finished[key] = manifest
        told = told or _tell_of_a_changed_recipe(run)
    return finished


def _refuse_what_a_later_stage_would(run: Run) -> None:
    """Read the gold, the seeds and the templates before anything is paid for."""
    run.gold()
    seeds = generate.read_seeds(run) if run.recipe.generate is not None else []
    first = next(chain(seeds, run.unlabeled()), None)
    run.label_template.render(label_values(run.recipe, first.input if first else "text"))
    curate.refuse_what_cannot_be_done(run)


def _finish(
    run: Run, lock: Lock, stage: Stage, artifact: Artifact, placed: Mapping[str, tuple[Stage, Artifact]]
) -> dict[str, Any]:
    """Run one stage and write its manifest, last of all."""
    started = time.time()
    asked, known, paid = run.spend.requests, run.spend.from_ledger, run.spend.usd
    tokens = (run.spend.input_tokens, run.spend.output_tokens)
    try:
        outcome = stage.work(run, artifact, {key: placed[key][1] for key in stage.inputs})
    finally:
        run.tell(run.take_notes())
    if outcome.counts is not None:
        outcome.counts.check(stage.key)
    lock.check()
    manifest = {
        "stage": stage.key,
        "version": stage.version,
        "fingerprint": artifact.fingerprint,
        "made_from": stage.made_from,
        "inputs": {key: placed[key][1].fingerprint for key in stage.inputs},
        "set": run.loaded.overrides,
        "rows": outcome.counts.as_json() if outcome.counts else None,
        "shards": outcome.shards,
        "summary": outcome.summary,
        "spend": {
            "requests": run.spend.requests - asked,
            "from_ledger": run.spend.from_ledger - known,
            "input_tokens": run.spend.input_tokens - tokens[0],
            "output_tokens": run.spend.output_tokens - tokens[1],
            "usd": run.spend.usd - paid,
        },
        "seconds": round(time.time() - started, 3),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions(),
        "cores": os.cpu_count(),
    }
    artifact.finish(manifest)
    return json.loads(json.dumps(manifest))  # type: ignore[no-any-return]


def _tell(run: Run, key: str, manifest: Mapping[str, Any]) -> None:
    rows, spend = manifest["rows"], manifest["spend"]
    said = [f"{key}: done in {manifest['seconds']:.1f} s"]
    if rows is not None:
        rejected = ", ".join(f"{reason} {n}" for reason, n in rows["rejected"].items())
        failed = ", ".join(f"{kind} {n}" for kind, n in rows["failed"].items())
        said.append(
            f"{rows['requested']} rows = {rows['accepted']} accepted"
            f" + {sum(rows['rejected'].values())} rejected{f' ({rejected})' if rejected else ''}"
            f" + {sum(rows['failed'].values())} failed{f' ({failed})' if failed else ''} + {rows['pending']} pending"
        )
    if spend["requests"] or spend["from_ledger"]:
        paid = f", ${spend['usd']:.4f}" if spend["usd"] else ""
        said.append(f"{spend['requests']} asked, {spend['from_ledger']} from the ledger{paid}")
    run.reporter.say("; ".join(said))
    fields = {name: manifest[name] for name in ("fingerprint", "rows", "spend", "seconds")}
    run.reporter.event("stage", stage=key, state="finished", **fields)


def _needed(placed: Mapping[str, tuple[Stage, Artifact]], until: str | None, recipe: Path) -> Sequence[str]:
    """The stages to run, in order: all, or those named ``until`` with everything they need."""
    if until is None:
        return list(placed)
    ends = [key for key, (stage, _) in placed.items() if stage.name == until]
    if not ends:
        missing = until if until in ("generate", "publish") else "student"
        raise BadInput(f"{recipe}: no `{missing}:` section, which '{until}' needs; add one")
    needed = set(ends)
    for key in reversed(list(placed)):
        if key in needed:
            needed.update(placed[key][0].inputs)
    return [key for key in placed if key in needed]


def _tell_of_a_changed_recipe(run: Run) -> bool:
    """Say so where the file is no longer what was read, and return whether it was said."""
    try:
        now = run.loaded.path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        now = ""
    if now == run.loaded.text:
        return False
    run.reporter.say(
        f"{run.loaded.path}: changed while this run is going; the run goes on with the recipe as it was read at the "
        "start: run again for the new one"
    )
    return True
