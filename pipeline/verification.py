"""What was done to be sure of the rows, in sentences: for the report, the student's card and the dataset's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .context import Run

_PERSONAL = "e-mail addresses, telephone, account, card and national numbers and IP addresses"


def verification(run: Run, manifests: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """How the teacher agreed with itself, what a judge said, and what became of personal data.

    Args:
        manifests: of `label` and `curate`, by stage.
    """
    if agreement := manifests["label"]["summary"]["agreement"]:
        rows = agreement["rows"]
        whole = rows.get("1.000", 0) / sum(rows.values())
        yield (
            f"Of {run.recipe.label.samples} answers to each row {agreement['mean']:.1%} say the one taken, on average; "
            f"on {whole:.1%} of rows all do."
        )
    if judged := manifests["curate"]["summary"].get("judge"):
        yield _judged(run, judged)
    if run.recipe.task.pii == "redact":
        yield f"Placeholders such as <email> stand for {_PERSONAL}. Names were not looked for."
    if run.recipe.task.pii == "reject":
        yield f"Rows with {_PERSONAL} were left out. Names were not looked for."


def _judged(run: Run, judged: Mapping[str, Any]) -> str:
    judge = run.recipe.curate.judge
    assert judge is not None, "the manifest is of this recipe"
    scores = judged["scores"]
    low = sum(rows for score, rows in scores.items() if int(score) < judge.minimum)
    shares = ", ".join(f"{rows} had {score}" for score, rows in scores.items() if rows)
    said = f"{judged['teacher']} scored {sum(scores.values())} rows by a rubric, from 1 to 5: {shares or 'none'}"
    said += f"; {low} below {judge.minimum} were left out."
    lenient = " It is the labelling teacher itself, lenient with what it would say again."
    return said + (lenient if judged["is_the_teacher"] else "")
