"""A user's own files, as far as the recipes of a root name them: looked through when a text is to be forgotten."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from ..data.errors import BadInput
from ..data.forgetting import Matches, texts
from ..data.sources import HUB, expand
from ..data.storage import Storage
from .notes import jobs, read_note
from .recipe import LoadedRecipe, load_recipe
from .strategies.kinds import Documents


@dataclass(frozen=True)
class Inputs:
    """What stands outside the root."""

    holding: list[str]
    """Files that hold the text."""
    unread: list[str]
    """What could not be looked through, and why."""


def inputs_with(storage: Storage, matches: Matches) -> Inputs:
    """Look through every file that the last run of a job reads rows, texts or words from."""
    holding: dict[str, None] = {}
    unread: list[str] = []
    for job in jobs(storage):
        note = read_note(storage, job)
        if note is None:
            unread.append(f"{job}: where its recipe stands is not known")
            continue
        try:
            loaded = load_recipe(note.recipe, [f"{key}={json.dumps(value)}" for key, value in note.set.items()])
        except BadInput as error:
            unread.append(f"{job}: {error}")
            continue
        for key, path in _named(loaded):
            if path.startswith(HUB):
                unread.append(f"{job}: {path}, which is a hub's")
                continue
            try:
                files = expand(path, loaded.folder, key)
                holding |= dict.fromkeys(str(file) for file in files if any(map(matches, texts(file))))
            except BadInput as error:
                unread.append(f"{job}: {error}")
    return Inputs(list(holding), unread)


def _named(loaded: LoadedRecipe) -> Iterator[tuple[str, str]]:
    """Fields with the path or pattern in each."""
    recipe = loaded.recipe
    task, curate = recipe.task, recipe.curate
    yield "recipe", str(loaded.path)
    if task.unlabeled is not None:
        yield "task.unlabeled", task.unlabeled.path
    if task.seeds is not None:
        yield "task.seeds", task.seeds
    yield from ((f"task.test.{name}", path) for name, path in task.test.items())
    for strategy in recipe.generate.strategies if recipe.generate else ():
        if isinstance(strategy, Documents):
            yield "generate.strategies", strategy.path
    if curate.decontaminate is not None:
        yield from (("curate.decontaminate.files", path) for path in curate.decontaminate.files)
    yield from ((f"teachers.{name}", one.model) for name, one in recipe.teachers.items() if one.kind == "table")
    yield from ((f"prompts.{name}", path) for name, path in recipe.prompts if path is not None)
