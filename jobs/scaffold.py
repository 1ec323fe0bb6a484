"""A new job: a commented recipe with seeds and prompts, ready to edit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ..data.errors import BadInput
from ..pipeline import prompts
from ..pipeline.recipe import NAME, TAKEN

_TEMPLATE = Path(__file__).parent / "template"

_GENERATE = """
generate:
  teacher: lead
  rows: 2000                        # accepted ones; what is rejected is topped up
  temperature: 1.0
  # strategies:                     # mixed by weight; without any, self-instruct alone
  #   - {kind: self-instruct, weight: 2}
  #   - {kind: attributes, attributes: {tone: [calm, angry], channel: [mail, chat]}}
  #   - {kind: evolve}              # a seed made harder, rarer or more concrete
  #   - {kind: contrast}            # for one label, and close to another
  #   - {kind: documents, path: "docs/*.pdf"}    # about passages of your own files
"""


def write_job(folder: Path, name: str, source: Path | None) -> Path:
    """Write ``jobs/<name>/`` below a folder.

    Args:
        source: unlabelled inputs to start from; without it the job starts from seeds and a teacher writes inputs.

    Raises:
        BadInput: the name cannot be a folder, the job exists, or there is no such file.
    """
    if not NAME.fullmatch(name) or name in TAKEN:
        other = f"and neither of {', '.join(TAKEN)}"
        raise BadInput(f"'{name}' cannot name a job; use at most 100 letters, digits, '-', '_' and '.', {other}")
    job = folder / "jobs" / name
    if job.exists():
        raise BadInput(f"{job}: exists already; choose another name, or edit what is there")
    if source is not None and not source.is_file():
        raise BadInput(f"--from {source}: no such file; expected a CSV, JSONL, JSON, Parquet or text file")
    try:
        _write(job, name, source)
    except OSError as error:
        raise BadInput(f"{job}: cannot be written: {error.strerror}; run it in a folder where you may write") from None
    return job


def _write(job: Path, name: str, source: Path | None) -> None:
    shutil.copytree(Path(prompts.__file__).parent / "templates", job / "prompts")
    recipe = (_TEMPLATE / "recipe.yaml").read_text(encoding="utf-8")
    recipe = recipe.replace("name: @NAME@", f"name: {json.dumps(name)}").replace("@NAME@", name)
    if source is not None:
        shutil.copy(source, job / source.name)
        path = json.dumps(source.name, ensure_ascii=False)  # a JSON string is a YAML one
        inputs = f'  unlabeled: {{path: {path}}}   # also input: "{{subject}} {{body}}", id: and group: columns'
        recipe = recipe.replace("@INPUTS@", inputs).replace("@GENERATE@\n", "\n")
    else:
        shutil.copy(_TEMPLATE / "seeds.jsonl", job / "seeds.jsonl")
        recipe = recipe.replace(
            "@INPUTS@", "  seeds: seeds.jsonl                # by hand; the more varied, the better"
        )
        recipe = recipe.replace("@GENERATE@", _GENERATE)
    (job / "recipe.yaml").write_text(recipe, encoding="utf-8")
