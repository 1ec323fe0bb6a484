"""Stage: the curated rows, and a student that passed, go where others find them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..data.artifact import Artifact
from ..data.bucket import Bucket
from ..data.hub import HubRepository
from ..data.publication import Files, Place, content_of, size_of
from ..students.config import Layers
from ..teachers.transformers import TransformersRecipe
from .card import model_card
from .config import PublishStage
from .context import Run
from .dataset_card import CONFIGS, Contents, dataset_card
from .outcome import Outcome
from .proof import publish_report
from .report import render_page

VERSION = 2

_WEIGHTS = ("model.", "model-")
"""How files of weights begin: of an older student in one file, or in several, a reader could take those."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """Files for one place."""

    what: str
    """`dataset` or `model`."""
    place: Place
    files: Files
    tag: str
    """The fingerprint of what made them."""


def publish(run: Run, made: Mapping[str, Artifact]) -> Outcome:
    """Send what there is to send; says what, and what not and why."""
    parcels, held_back = _packed(run, made)
    summary: dict[str, Any] = {"held_back": held_back}
    for parcel in parcels:
        run.reporter.say(f"  {parcel.what}: sending to {parcel.place.name}, {_size(parcel)}")
        done = parcel.place.publish(parcel.files, parcel.tag, f"{run.recipe.name} {parcel.tag}")
        run.reporter.say(f"  {parcel.what}: {done.where} ({done.sent} files sent, {done.kept} there before)")
        summary[parcel.what] = {"where": done.where, "revision": done.revision, "tag": parcel.tag}
        run.reporter.event("publish", what=parcel.what, **asdict(done), tag=parcel.tag)
    if held_back:
        run.reporter.say(f"  model: not published: {held_back}")
    return Outcome(summary=summary)


def rehearse(run: Run, made: Mapping[str, Artifact]) -> None:
    """Say what would be sent, and send nothing; the cards are written, to look at."""
    parcels, held_back = _packed(run, made)
    assert run.recipe.publish is not None
    for parcel in parcels:
        bucket, private = isinstance(parcel.place, Bucket), run.recipe.publish.private
        seen = "seen by whoever may read there" if bucket else "private" if private else "public"
        run.reporter.say(f"{parcel.what}: to {parcel.place.name}, {_size(parcel)}, {seen}, under the tag {parcel.tag}")
        for path, content in sorted(parcel.files.items()):
            run.reporter.say(f"  {path} ({size_of(content):,} bytes)")
        card = f"{run.recipe.name}/{parcel.what}-card.md"
        run.storage.replace(card, content_of(parcel.files["README.md"]))
        run.reporter.say(f"  its card: {run.storage.place(card)}")
        facts = {"what": parcel.what, "to": parcel.place.name, "tag": parcel.tag, "files": sorted(parcel.files)}
        run.reporter.event("publish", **facts, dry_run=True)
    if held_back:
        run.reporter.say(f"model: would not be published: {held_back}")


def _packed(run: Run, made: Mapping[str, Artifact]) -> tuple[list[Parcel], str]:
    """What is to be published, and why a student that has a place is not; empty where it is, or has none."""
    stage = run.recipe.publish
    assert stage is not None
    manifests = {key: manifest for key, artifact in made.items() if (manifest := artifact.manifest())}
    parcels: list[Parcel] = []
    if stage.dataset:
        tag = made["curate"].fingerprint
        place = _place(run, stage, "dataset", [f"{config}/" for config in CONFIGS])
        parcels.append(Parcel("dataset", place, _dataset(run, stage, made["curate"], manifests, tag), tag))
    if not stage.model:
        return parcels, ""
    report = publish_report(run, manifests)
    decision = report["verdict"]["decision"]
    if stage.when == "pass" and decision != "pass":
        return parcels, f"the verdict is {decision.replace('_', ' ').upper()}, and publish.when is `pass`"
    files = _model(run, stage, report, made[f"train:{run.recipe.judged_student}"])
    place = _place(run, stage, "model", _WEIGHTS)
    return [*parcels, Parcel("model", place, files, made["evaluate"].fingerprint)], ""


def _place(run: Run, stage: PublishStage, kind: Literal["dataset", "model"], ours: Sequence[str]) -> Place:
    def pause(seconds: float) -> None:
        run.reporter.say(f"  {kind}: {name} is not ready; asked again in {seconds:g} s")
        time.sleep(seconds)

    name = stage.dataset if kind == "dataset" else stage.model
    assert name is not None
    if "://" in name:
        return Bucket(name)
    return HubRepository(name, kind, private=stage.private, ours=ours, pause=pause)


def _dataset(
    run: Run, stage: PublishStage, curated: Artifact, manifests: Mapping[str, Mapping[str, Any]], tag: str
) -> Files:
    """Shards as they lie in the stage's folder, the card, and the recipe with the templates that it names."""
    rows = {key: manifests[key] for key in ("generate", "label", "curate") if key in manifests}
    card = dataset_card(run, stage, rows, Contents.of(run, curated), tag)
    shards = [shard["path"] for config in CONFIGS for shard in rows["curate"]["shards"].get(config, ())]
    return {**{path: curated.folder / path for path in shards}, "README.md": card.encode(), **_recipe(run)}


def _recipe(run: Run) -> Files:
    named = [path for path in run.recipe.prompts.model_dump().values() if path]
    inside = [path for path in named if not Path(path).is_absolute() and ".." not in Path(path).parts]
    return {"recipe.yaml": run.loaded.text.encode(), **{path: run.folder / path for path in inside}}


def _model(run: Run, stage: PublishStage, report: Mapping[str, Any], trained: Artifact) -> Files:
    """The student of the seed that was kept, with its proof."""
    manifest = trained.manifest()
    assert manifest is not None
    kept = trained.folder / f"seed-{manifest['summary']['chosen']}"
    shown = _without_rows(report)
    return {
        **{path.name: path for path in sorted(kept.iterdir()) if path.is_file()},
        "report.json": json.dumps(shown, indent=2, ensure_ascii=False).encode("utf-8", "replace"),
        "report.html": render_page(shown).encode("utf-8", "replace"),
        "README.md": model_card(shown, stage, _base(run)).encode("utf-8", "replace"),
        **_recipe(run),
    }


def _without_rows(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report as others see it: every figure, and no row of a test, which may be gold."""
    leaks = report["contamination"]
    if leaks:
        leaks = {**leaks, "tests": {test: {**part, "pairs": []} for test, part in leaks["tests"].items()}}
    note = "Rows of the tests are not shown here; who made this has them."
    return {**report, "errors": [], "contamination": leaks, "notes": [*report["notes"], note]}


def _base(run: Run) -> str | None:
    """The model of a hub that the student was made out of."""
    student = run.recipe.students[run.recipe.judged_student or ""]
    name = student.begins_as.model if student.begins_as else None
    if isinstance(student.init, Layers):
        teacher = run.recipe.teachers[student.init.teacher]
        name = teacher.model if isinstance(teacher, TransformersRecipe) else None
    return None if name is None or (run.folder / name).exists() else name


def _size(parcel: Parcel) -> str:
    return f"{len(parcel.files)} files, {sum(map(size_of, parcel.files.values())):,} bytes"
