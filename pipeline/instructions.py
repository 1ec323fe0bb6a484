"""README.md of an exported student: what it was proved to do, and lines of Python that run it without this program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..teachers.loading import load_tokenizer
from ..teachers.onnxruntime import MODEL
from ..teachers.rendering import stop_tokens
from .contenders import student_sampling
from .context import Run
from .markdown import plain
from .reproof import Reproof

_PAGE = Path(__file__).parent / "page"
_HERE = "GoesOnHere"


def instructions(run: Run, folder: Path, proof: Reproof) -> str:
    """The text, with the very strings and tokens that this student reads a message between.

    Args:
        folder: what is exported, complete but for this.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    classifier = config["architectures"][0].endswith("ForSequenceClassification")
    tokenizer = load_tokenizer(folder, "main", "export")
    environment = Environment(
        loader=FileSystemLoader(_PAGE), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = environment.get_template("export.md.j2").render(
        name=plain(run.recipe.name),
        student=plain(proof.student),
        form=proof.form,
        instruction=plain(run.recipe.task.instruction, 1000),
        proof=list(proof.lines()),
        test=proof.test,
        card=(folder / "card.md").exists(),
        onnx=(folder / MODEL).exists(),
        labels=bool(run.recipe.labels),
        classifier=classifier,
        loader="AutoModelForSequenceClassification" if classifier else "AutoModelForCausalLM",
        prompt=_prompt(tokenizer),
        stops=_stops(folder, tokenizer),
        longest=student_sampling(run.recipe.students[proof.student]).max_tokens,
        redacts=run.redacts,
    )
    return text.rstrip() + "\n"


def _prompt(tokenizer: Any) -> str:
    """What is encoded of a message, as Python."""
    if tokenizer.chat_template is None:
        return "text"
    turn = [{"role": "user", "content": _HERE}]
    whole = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    before, _, after = whole.partition(_HERE)
    return f"{before!r} + text + {after!r}, add_special_tokens=False"


def _stops(folder: Path, tokenizer: Any) -> list[int]:
    """Tokens that end a written answer."""
    file = folder / "generation_config.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return stop_tokens(known.get("eos_token_id"), tokenizer)
