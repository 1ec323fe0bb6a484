"""The tree keeps its own rules: lint, format, strict types, and a package that installs with everything it needs."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINK = ROOT / "understudy"


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture
def linked():
    if not LINK.exists():
        pytest.skip("the link `understudy -> .` is missing; `make test` makes it")


def test_lint_and_format_are_clean():
    checked = run("ruff", "check", ".")
    formatted = run("ruff", "format", "--check", ".")

    assert checked.returncode == 0, checked.stdout
    assert formatted.returncode == 0, formatted.stdout


def test_the_package_has_strict_types(linked):
    checked = run("mypy")

    assert checked.returncode == 0, checked.stdout


def test_a_planted_type_error_is_found(linked, tmp_path):
    planted = tmp_path / "planted.py"
    planted.write_text("from understudy.data.fingerprint import row_id\n\nnumber: int = row_id('a')\n")

    checked = run("mypy", "--config-file", str(ROOT / "pyproject.toml"), str(planted))

    assert checked.returncode == 1
    assert 'has type "str", variable has type "int"' in checked.stdout


@pytest.mark.slow
def test_an_installed_wheel_holds_code_types_templates_recipes_and_model(tmp_path):
    built = run("pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), ".")
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("understudy-*.whl")

    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")

    for expected in (
        "data/ledger.py",
        "data/py.typed",
        "pipeline/templates/label.j2",
        "pipeline/page/report.html.j2",
        "jobs/support-triage/recipe.yaml",
        "jobs/banking77/recipe.yaml",
        "jobs/template/recipe.yaml",
        "teachers/embedded/model/model.safetensors",
    ):
        assert f"understudy/{expected}" in names
    assert "understudy/__init__.py" not in names, "understudy is a namespace"
    asked = subprocess.run(
        [sys.executable, "-c", "import understudy.pipeline.recipe as found; print(found.__file__)"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(asked.stdout.strip()).is_relative_to(tmp_path / "site")
