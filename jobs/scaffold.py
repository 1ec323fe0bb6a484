"""A new job: a commented recipe with seeds and prompts, ready to edit."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from ..data.errors import BadInput
from ..pipeline import prompts

_TEMPLATE = Path(__file__).parent / "template"


def write_job(folder: Path, name: str, source: Path | None) -> Path:
    """Write ``jobs/<name>/`` below a folder.

    Args:
        source: unlabelled inputs to start from; without it the job starts from seeds and a teacher writes inputs.

    Raises:
        BadInput: the name cannot be a folder, the job exists, or there is no such file.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise BadInput(f"'{name}' cannot name a job; use letters, digits, '-', '_' and '.'")
    job = folder / "jobs" / name
    if job.exists():
        raise BadInput(f"{job}: exists already; choose another name, or edit what is there")
    if source is not None and not source.is_file():
        raise BadInput(f"--from {source}: no such file; expected a CSV, JSONL, JSON, Parquet or text file")
    shutil.copytree(Path(prompts.__file__).parent / "templates", job / "prompts")
    recipe = (_TEMPLATE / "recipe.yaml").read_text(encoding="utf-8").replace("@NAME@", name)
    if source is not None:
        shutil.copy(source, job / source.name)
        inputs = (
            f'  unlabeled: {{path: "{source.name}"}}   # also input: "{{subject}} {{body}}", id: and group: columns'
        )
        recipe = recipe.replace("@INPUTS@", inputs).replace("@GENERATE@\n", "\n")
    else:
        shutil.copy(_TEMPLATE / "seeds.jsonl", job / "seeds.jsonl")
        recipe = recipe.replace(
            "@INPUTS@", "  seeds: seeds.jsonl                # by hand; the more varied, the better"
        )
        recipe = recipe.replace("@GENERATE@", "\ngenerate: {teacher: lead, rows: 2000, temperature: 1.0}")
    (job / "recipe.yaml").write_text(recipe, encoding="utf-8")
    return job
