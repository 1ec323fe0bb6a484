"""What travels to a cluster: the files of this code, and a recipe with the files that it names.

Each is copied to a folder of its own, which Ray packs, names by its content, and unpacks on every node. A wheel was
weighed and left out: Ray has pip install it on every node, 4 to 9 seconds each time (measured), and tells wheels apart
by their name alone, so that code under development would be sent once and never again. The recipe's own folder is not
sent as it stands, because it may hold a disk's worth that the recipe does not name.
"""

from __future__ import annotations

import glob
import os
import shutil
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

from ..data.errors import BadInput, in_a_line
from ..data.fingerprint import fingerprint
from ..data.sources import inputs_fingerprint
from ..pipeline.inputs import files_beside
from ..pipeline.recipe import LoadedRecipe

MOST_BYTES = 100 * 1024**2
"""Of one upload: what the job server of Ray 2.60 takes (`DASHBOARD_CLIENT_MAX_SIZE`)."""

_ROOT = Path(__file__).parents[1]
"""The project's folder in a checkout, else the package's."""


@dataclass(frozen=True)
class Parcel:
    """A recipe and its files, at the same places relative to each other."""

    folder: Path
    recipe: str
    """Where the recipe stands in it."""
    content: str
    """Identity of all that is in it."""


def pack_recipe(loaded: LoadedRecipe, folder: Path) -> Parcel:
    """Copy the recipe, and what it names relative to itself, to a new folder.

    Raises:
        BadInput: a file is not there, or they are more than a job server takes.
    """
    files = files_beside(loaded)
    sizes = {file: file.stat().st_size for file in files}
    if sum(sizes.values()) > MOST_BYTES:
        biggest = max(files, key=lambda file: sizes[file])
        raise BadInput(
            f"{loaded.path}: its files have {sum(sizes.values()):,} bytes, and a job server takes {MOST_BYTES:,}; the "
            f"biggest is {biggest}, {sizes[biggest]:,}: put it where the cluster sees it, and name it by its whole path"
        )
    top = Path(os.path.commonpath([file.parent for file in files]))
    named = [(file.relative_to(top).as_posix(), file) for file in files]
    _copy(named, folder)
    content = fingerprint([[name for name, _ in named], inputs_fingerprint(files)])
    return Parcel(folder, loaded.path.relative_to(top).as_posix(), content)


def pack_code(folder: Path) -> Path:
    """Copy the files of this package to a new folder, and return the package's own in it.

    Raises:
        BadInput: the code is not whole, or cannot be read.
    """
    try:
        _copy(_code(), folder)
    except (OSError, ValueError, LookupError, ImportError, TypeError) as error:
        raise BadInput(
            f"{_ROOT}: this code cannot be packed: {in_a_line(error)}; mend or reinstall it, or submit with "
            "--installed to a cluster that has it"
        ) from None
    return folder / "understudy"


def _code() -> Iterator[tuple[str, Path]]:
    """The files of the package by their names in it: as a checkout's project file lists them, else as installed."""
    project = _ROOT / "pyproject.toml"
    if not project.is_file():
        for file in distribution("understudy").files or ():
            if file.parts[0] == "understudy" and "__pycache__" not in file.parts:
                yield file.as_posix(), Path(str(file.locate()))
        return
    listed = tomllib.loads(project.read_text(encoding="utf-8"))["tool"]["setuptools"]
    for package in listed["packages"]:
        place = _ROOT / listed["package-dir"][package]
        for pattern in ("*.py", *listed["package-data"].get(package, ())):
            for name in sorted(glob.glob(pattern, root_dir=place, recursive=True)):
                if (place / name).is_file():
                    yield f"{package.replace('.', '/')}/{name}", place / name


def _copy(files: Iterable[tuple[str, Path]], folder: Path) -> None:
    for name, file in files:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
