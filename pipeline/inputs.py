"""What a recipe names outside itself: files, looked through when a text is to be forgotten, and variables.

What it names relative to itself travels with it, where a run is to happen elsewhere; what stands under an absolute
path is taken to be wherever the recipe goes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from ..data.errors import BadInput
from ..data.filters import Function
from ..data.forgetting import Matches, texts
from ..data.sources import HUB, expand
from ..data.storage import Storage
from ..teachers.openai import OpenAIRecipe
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


def files_beside(loaded: LoadedRecipe) -> list[Path]:
    """The recipe and every file that it names relative to itself, functions and folders of models among them.

    Raises:
        BadInput: one of them is not there.
    """
    found: dict[Path, None] = {loaded.path: None}
    for key, path in chain(_named(loaded), _functions(loaded)):
        if not path.startswith(HUB) and not _is_absolute(path):
            found |= dict.fromkeys(expand(path, loaded.folder, key, "a file"))
    for model in _models(loaded):
        if not _is_absolute(model):  # a hub id is no folder here, and has no files
            found |= dict.fromkeys(file for file in sorted((loaded.folder / model).rglob("*")) if file.is_file())
    return [Path(os.path.normpath(file)) for file in found]


def absolute_paths(loaded: LoadedRecipe) -> list[str]:
    """What has to be at the same place wherever the recipe goes, each with the field that names it."""
    named = chain(_named(loaded), _functions(loaded), (("model", model) for model in _models(loaded)))
    return [f"{key}: {path}" for key, path in named if key != "recipe" and _is_absolute(path)]


def variables(loaded: LoadedRecipe) -> list[str]:
    """Names of the environment variables that the recipe's teachers read."""
    names: dict[str, None] = {}
    for teacher in loaded.recipe.teachers.values():
        if isinstance(teacher, OpenAIRecipe):
            names |= dict.fromkeys(
                [*([teacher.api_key_env] if teacher.api_key_env else []), *teacher.headers_env.values()]
            )
    return list(names)


def _functions(loaded: LoadedRecipe) -> Iterator[tuple[str, str]]:
    for one in loaded.recipe.curate.filters:
        if isinstance(one, Function):
            yield "curate.filters", one.path.partition(":")[0]


def _models(loaded: LoadedRecipe) -> Iterator[str]:
    """What may be a folder with a model in it."""
    recipe = loaded.recipe
    yield from (teacher.model for teacher in recipe.teachers.values() if teacher.kind in ("transformers", "vllm"))
    begun = (student.begins_as for student in recipe.students.values())
    yield from (init.model for init in begun if init is not None and init.model is not None)
    if recipe.curate.meaning is not None:
        yield recipe.curate.meaning.model


def _is_absolute(path: str) -> bool:
    return path.startswith("~") or Path(path).is_absolute()
