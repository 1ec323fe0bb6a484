"""The runner: what is left to do of a recipe's stages, and doing it.

A stage's output lives at `stages/<name>-<fingerprint>`. A folder with a manifest is done; one without is where an
interrupted stage goes on, so a run may move, grow and resume.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from ..data.artifact import Artifact
from ..data.errors import BadInput
from ..data.fingerprint import fingerprint
from ..data.lock import Lock
from . import curate, generate
from .ask import label_values
from .changes import changed, still_good
from .context import Run, versions
from .notes import Note, read_note, write_note
from .stages import Stage, stages


def artifacts(run: Run) -> dict[str, tuple[Stage, Artifact]]:
    """Every stage of the run with its place, finished or not."""
    placed: dict[str, tuple[Stage, Artifact]] = {}
    last = read_note(run.storage, run.recipe.name)
    for stage in stages(run):
        identity = {
            "stage": stage.name,
            "version": stage.version,
            "made_from": stage.made_from,
            "inputs": [placed[key][1].fingerprint for key in stage.inputs],
        }
        artifact = Artifact(run.storage, stage.name, fingerprint(identity))
        kept = _kept(run, stage, last.finished.get(stage.key) if last else None, placed)
        placed[stage.key] = (stage, kept or artifact)
    return placed


def _kept(run: Run, stage: Stage, trained: str | None, placed: Mapping[str, tuple[Stage, Artifact]]) -> Artifact | None:
    """The student of the last run, where `train.when` says that it will do."""
    name, _, student = stage.key.partition(":")
    if name != "train" or trained is None or (when := run.recipe.students[student].train.when) == 1:
        return None
    artifact = Artifact(run.storage, "train", trained.rpartition("-")[2])
    manifest = artifact.manifest() or {}
    alike = all(manifest.get(name) == _as_json(getattr(stage, name)) for name in ("version", "made_from"))
    return artifact if alike and still_good(run, trained, placed["curate"][1], when) else None


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def run_stages(run: Run, until: str | None = None) -> dict[str, dict[str, Any]]:
    """Do what is not done yet, up to and including the stage ``until``; returns the manifests by stage.

    Raises:
        Locked: another run of this recipe works on this root.
        BadInput: the recipe has no such stage.
    """
    placed = artifacts(run)
    wanted = _needed(placed, until, run.loaded.path)
    manifests = {key: placed[key][1].manifest() for key in wanted}
    done = {key: manifest for key, manifest in manifests.items() if manifest is not None}
    last = read_note(run.storage, run.recipe.name)
    ended = last.finished if last else {}
    folders = {key: artifact.path for key, (_, artifact) in placed.items()}
    note = Note(run.loaded.path, run.loaded.overrides, folders, ended)
    if len(done) == len(wanted) and last == note:
        return done
    if len(done) < len(wanted):
        refuse_what_a_later_stage_would(run)
    finished: dict[str, dict[str, Any]] = {}
    told = False
    with Lock(run.storage, f"{run.recipe.name}/lock.json") as lock:
        run.storage.replace(f"{run.recipe.name}/recipe.yaml", run.loaded.text.encode())
        write_note(run.storage, run.recipe.name, note)
        for key in wanted:
            stage, artifact = placed[key]
            manifest = artifact.manifest()
            if manifest is None:
                told = told or _tell_of_a_changed_recipe(run)
                run.reporter.event("stage", stage=key, fingerprint=artifact.fingerprint, state="started")
                manifest = _finish(run, lock, stage, artifact, placed)
                _tell(run, key, manifest)
            else:
                few = stage.name == "train" and manifest["inputs"]["curate"] != placed["curate"][1].fingerprint
                why = "too few rows are others for train.when, " if few else ""
                run.reporter.say(f"{key}: done before ({why}{artifact.path})")
            finished[key] = manifest
            if key == "curate":
                _tell_what_changed(run, ended, artifact)
                placed = artifacts(run)  # whether a student will do is known now
                folders = {key: artifact.path for key, (_, artifact) in placed.items()}
                note = replace(note, stages=folders)
                write_note(run.storage, run.recipe.name, note)
        write_note(
            run.storage, run.recipe.name, replace(note, finished=ended | {key: folders[key] for key in finished})
        )
        told = told or _tell_of_a_changed_recipe(run)
    return finished


def refuse_what_a_later_stage_would(run: Run) -> None:
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
    return _as_json(manifest)  # type: ignore[no-any-return]


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


def _tell_what_changed(run: Run, ended: Mapping[str, str], curated: Artifact) -> None:
    """Since the last run, where there was one."""
    if "curate" not in ended:
        return
    change = changed(run, Artifact(run.storage, "curate", ended["curate"].rpartition("-")[2]), curated)
    if change is not None:
        run.reporter.say(f"since the last run: {change.line()}")
        run.reporter.event("changed", **change.as_json())


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
