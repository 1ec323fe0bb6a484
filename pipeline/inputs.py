"""A user's own files, as far as the recipes of a root name them: looked through when a text is to be forgotten."""

from __future__ import annotations

import json
from collections.abc import Iterator

from ..data.errors import BadInput
from ..data.forgetting import Matches, texts
from ..data.sources import HUB, expand
from ..data.storage import Storage
from .notes import jobs, read_note
from .recipe import JobRecipe, LoadedRecipe, load_recipe
from .strategies.kinds import Documents


def inputs_with(storage: Storage, matches: Matches) -> Iterator[str]:
    """Files outside the root that hold a text, and what could not be looked through, a line each."""
    for job in jobs(storage):
        note = read_note(storage, job)
        if note is None:
            yield f"{job}: where its recipe stands is not known; look through its inputs yourself"
            continue
        try:
            loaded = load_recipe(note.recipe, [f"{key}={json.dumps(value)}" for key, value in note.set.items()])
        except BadInput as error:
            yield f"{job}: inputs not looked through: {error}"
            continue
        yield from _holding(loaded, matches)


def _holding(loaded: LoadedRecipe, matches: Matches) -> Iterator[str]:
    for key, path in [("recipe", str(loaded.path)), *_named(loaded.recipe)]:
        if path.startswith(HUB):
            yield f"{path}: a hub's, not looked through"
            continue
        try:
            files = expand(path, loaded.folder, key)
            yield from (f"{file}: your own input, not changed" for file in files if any(map(matches, texts(file))))
        except BadInput as error:
            yield f"not looked through: {error}"


def _named(recipe: JobRecipe) -> Iterator[tuple[str, str]]:
    """What a recipe reads rows, texts and words from, by field."""
    task, curate = recipe.task, recipe.curate
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
