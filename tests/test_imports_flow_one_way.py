"""data <- teachers, students <- pipeline <- jobs: checked on the source, so that deferred imports count too."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BELOW = {
    "data": set(),
    "teachers": {"data"},
    "students": {"data"},
    "pipeline": {"data", "teachers", "students"},
    "jobs": {"data", "teachers", "students", "pipeline"},
}
HEAVY = {"torch", "ray", "vllm", "transformers", "trl", "datasets", "distilabel", "pyarrow", "sklearn", "scipy"}
HEAVY |= {"aiohttp", "numpy", "onnx", "onnxruntime", "onnxscript"}


def imported(file: Path, root: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything a file imports, wherever in it, by statement or by name."""
    package = ["understudy", *file.relative_to(root).parent.parts]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.Import():
                names = [alias.name for alias in node.names]
            case ast.ImportFrom():
                above = package[: len(package) - node.level + 1] if node.level else []
                base = [*above, *([node.module] if node.module else [])]
                names = [".".join([*base, alias.name]) for alias in node.names]
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                level = len(name) - len(name.lstrip("."))
                above = package[: len(package) - level + 1] if level else []
                names = [".".join([*above, name.lstrip(".")])]
            case _:
                continue
        yield from ((node.lineno, name) for name in names)


def violations(root: Path) -> list[str]:
    """Every import between the folders that does not go down."""
    found = []
    for folder, below in BELOW.items():
        for file in sorted((root / folder).rglob("*.py")):
            for line, name in imported(file, root):
                parts = name.split(".")
                if parts[0] == "understudy" and len(parts) > 1 and parts[1] not in {folder, *below}:
                    found.append(f"{file.relative_to(root)}:{line}: {folder} must not import {parts[1]} ({name})")
                elif parts[0] in BELOW:
                    found.append(f"{file.relative_to(root)}:{line}: {name} is imported without its package")
    return found


def test_imports_between_the_folders_go_down_only():
    assert violations(ROOT) == []


def test_every_folder_of_the_package_is_looked_at():
    folders = {path.parent.name for path in ROOT.glob("*/py.typed")}
    assert folders == set(BELOW)
    assert all(list((ROOT / folder).glob("*.py")) for folder in BELOW)


@pytest.mark.parametrize(
    ("place", "text", "message"),
    [
        ("data/rows.py", "from ..teachers.kind import Price", "data must not import teachers"),
        ("data/rows.py", "from .. import pipeline", "data must not import pipeline"),
        ("data/rows.py", "import understudy.jobs.cli as x", "data must not import jobs"),
        ("data/rows.py", "def f():\n    from ..students import config", "data must not import students"),
        ("data/deep/down.py", "from ...jobs import cli", "data must not import jobs"),
        ("data/deep/__init__.py", "from ...jobs import cli", "data must not import jobs"),
        (
            "teachers/kind.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..students.config import X",
            "teachers must not import students",
        ),
        ("students/build.py", "from ..teachers.kind import Price", "students must not import teachers"),
        ("students/build.py", "from ..pipeline import run", "students must not import pipeline"),
        ("teachers/kind.py", "x = lambda: __import__('understudy.pipeline')", "teachers must not import pipeline"),
        (
            "pipeline/run.py",
            "import importlib\nx = importlib.import_module('..jobs.cli', __package__)",
            "pipeline must not import jobs",
        ),
        ("jobs/cli.py", "from pipeline.run import x", "pipeline.run.x is imported without its package"),
    ],
)
def test_an_import_that_goes_up_is_found_and_its_file_and_line_named(tmp_path, place, text, message):
    file = tmp_path / place
    file.parent.mkdir(parents=True)
    file.write_text(f"{text}\n")
    line = len(text.splitlines())
    (found,) = violations(tmp_path)
    assert found.startswith(f"{place}:{line}: ")
    assert message in found


def test_an_import_that_goes_down_or_stays_is_none(tmp_path):
    for place, text in (
        ("jobs/cli.py", "from ..pipeline.run import x\nfrom . import scaffold\nimport understudy.data.rows"),
        ("pipeline/run.py", "from ..teachers.kind import x\nfrom ..students import config\nfrom .use import y"),
        ("teachers/deep/x.py", "from ...data.rows import Row\nfrom ..kind import Price\nfrom . import y"),
        ("data/rows.py", "import json\nfrom dataclasses import dataclass\nfrom .errors import BadInput"),
    ):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(text)
    assert violations(tmp_path) == []


def loaded(code: str) -> set[str]:
    """The heavy packages that are in memory after the code has run in a fresh process."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    script = f"{code}\nimport sys\nprint(' '.join({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return HEAVY & set(done.stdout.splitlines()[-1].split())


def test_the_command_line_starts_without_anything_heavy():
    assert loaded("import understudy.jobs.cli") == set()


def test_help_loads_nothing_heavy():
    code = (
        "from understudy.jobs.cli import cli\n"
        "for words in (['--help'], ['run', '--help'], ['init', '--help']):\n"
        "    try: cli.main(words, standalone_mode=False)\n"
        "    except SystemExit: pass\n"
    )
    assert loaded(code) == set()


def test_reading_a_recipe_loads_nothing_heavy():
    code = (
        "import understudy.pipeline.recipe, understudy.data.sources, understudy.data.duplicates\n"
        "import understudy.data.ledger, understudy.data.lock, understudy.data.artifact, understudy.teachers.recorded\n"
    )
    assert loaded(code) == set()
