"""Training a student: from its first weights to the folder that answers."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerFast, set_seed
from transformers.utils import logging as hf_logging

from ..data.errors import BadInput, NotEnoughData
from ..data.rows import Example
from .batches import IGNORED, Clock, Collator, encode
from .config import FINISHED, UNTRAINED, StudentRecipe
from .crew import ALONE, Crew, put_together, whole
from .cut import Larger
from .lora import adapted
from .records import FILE, alarms, read_records
from .sft import Pupil, Show, learn_rows
from .tokenizer import answer_ids, only_reads, save_tokenizer, turn_end
from .watchers import check_watchers
from .weights import Learnt, Source, TrainingRows, first_weights, keep_untrained

if TYPE_CHECKING:
    from datasets import Dataset

    from .on_policy import Lead
    from .preference import Ranked


def train_student(
    student: StudentRecipe,
    rows: TrainingRows,
    folder: Path,
    seed: int,
    show: Show,
    source: Callable[[], Source] | None = None,
    beside: Sequence[Ranked] | Lead | None = None,
    crew: Crew = ALONE,
) -> dict[str, Any]:
    """Train one student into ``folder``; goes on from its last checkpoint, and is a no-op on a finished one.

    Args:
        student: with one method; `phases` are its methods one by one.
        source: loads the model that a student of kind `layers` is cut from, or that one of kind `hub` begins as, or
            finds the folder that an earlier method left it in.
        beside: what `preference` and `on_policy` learn from: ranked pairs, or the teacher.
        crew: this worker's place among several that call this at once, to learn from rows.

    Returns:
        validation_agreement (0 to 100), validation_loss (nats), parameters, bytes, vocabulary, steps, planned (steps
        of all epochs), best (the step whose weights are kept, of a student with patience), alarms, seconds; of workers
        but the first, nothing.

    Raises:
        NotEnoughData: no row is short enough to train on.
        BadInput: patience without a validation side, nothing to report to, a loss that is not finite, or a model that
            the method cannot teach.
    """
    if (folder / FINISHED).exists():
        known: dict[str, Any] = json.loads((folder / FINISHED).read_text())
        return known
    check_watchers(student.train.report_to)
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    started = time.monotonic()
    work = folder / "work"
    set_seed(seed)
    begun = source() if source else None
    with crew.one_before_the_others():
        tokenizer, model = first_weights(student.init, rows, seed, work / "tokenizer", begun)
        if crew.first and not isinstance(begun, Learnt):
            keep_untrained(model, tokenizer, folder.parent / UNTRAINED)
        lesson, learn = _lesson(student, rows, tokenizer, begun, beside, work, crew)
        held_out = _encoded(student, rows, rows.validation, tokenizer, work / "validation.arrow")
    del begun  # training needs the memory
    if student.train.patience and len(held_out) == 0:
        raise BadInput(
            f"train.patience = {student.train.patience}: there are no rows for validation to tell when to end; raise "
            "split.validation, or remove it"
        )
    learning = model
    if student.train.lora:
        answers = answer_ids(tokenizer, rows.labels)
        own = [*answers, turn_end(tokenizer)] if student.learns_by("sft") else []
        learning = adapted(model, student.train.lora, own)
    learnt = learn(Pupil(student, rows.labels, tokenizer, model, learning), lesson, held_out, work, seed, show)
    weights = whole(model.state_dict()) if crew.fsdp else None
    if not crew.first:
        return {}
    if weights is not None:
        model = put_together(model, weights)
    if student.train.lora:
        learning.merge_and_unload()
    agreement, loss = validate(model, tokenizer, rows.labels, held_out, student.train.batch)
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    result = {
        "validation_agreement": agreement,
        "validation_loss": loss,
        "parameters": model.num_parameters(),
        "bytes": (folder / "model.safetensors").stat().st_size,
        "vocabulary": len(tokenizer),
        "rows": len(lesson),
        **learnt,
        "alarms": alarms(read_records(folder / FILE)),
        "seconds": round(time.monotonic() - started, 1),
    }
    (folder / FINISHED).write_text(json.dumps(result))
    return result


def _lesson(
    student: StudentRecipe,
    rows: TrainingRows,
    tokenizer: PreTrainedTokenizerFast,
    begun: Source | None,
    beside: Sequence[Ranked] | Lead | None,
    work: Path,
    crew: Crew,
) -> tuple[Any, Callable[..., dict[str, int | None]]]:
    """What is learnt from, as tokens, and what learns it.

    TRL's trainer of what a student writes itself loads vLLM where that is installed, which takes seconds.
    """
    longest = student.train.max_length
    if student.learns_by("on_policy"):
        from .on_policy import Lead, encode_openings, learn_on_policy

        assert isinstance(beside, Lead), "a teacher reads what the student writes"
        return encode_openings(list(rows.train()), tokenizer, beside, longest), partial(learn_on_policy, lead=beside)
    if student.learns_by("preference"):
        from .preference import encode_pairs, learn_preferences

        assert isinstance(beside, Sequence), "pairs are ranked before"
        return encode_pairs(beside, tokenizer, longest), learn_preferences
    states = begun.states if isinstance(begun, Larger) and rows.only_labels else None
    encoded = _encoded(student, rows, rows.train, tokenizer, work / "train.arrow", states)
    if len(encoded) == 0:
        raise NotEnoughData(f"train: no row fits into max_length = {longest} tokens; raise train.max_length")
    return encoded, partial(learn_rows, crew=crew)


def _encoded(
    student: StudentRecipe,
    rows: TrainingRows,
    side: Callable[[], Iterator[Example]],
    tokenizer: PreTrainedTokenizerFast,
    cache: Path,
    states: Callable[[Sequence[str]], list[list[float]]] | None = None,
) -> Dataset:
    return encode(
        side,
        tokenizer,
        rows.labels,
        soft=bool(rows.labels) and student.train.labels != "hard",
        max_length=student.train.max_length,
        cache=cache,
        states=states,
        topk=student.learns_by("topk"),
    )


def validate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, labels: Sequence[str], held_out: Dataset, size: int
) -> tuple[float, float]:
    """Share of answer tokens (closed labels: of answers) predicted as given, 0 to 100, and the mean loss in nats.

    Zero and infinity where the validation side is empty.

    Args:
        size: rows at a time.
    """
    if len(held_out) == 0:
        return 0.0, math.inf
    known = torch.tensor(answer_ids(tokenizer, labels), device=model.device)
    collate = Collator(tokenizer.pad_token_id, 0, Clock(), None, tokenizer.padding_side)
    chooses = only_reads(tokenizer)
    hits, loss, tokens = 0, 0.0, 0
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(held_out), size):
            batch = collate(list(held_out.select(range(start, min(start + size, len(held_out))))))
            batch = {name: value.to(model.device) for name, value in batch.items() if name != "probs"}
            targets = batch.pop("targets")
            kept = {} if chooses else {"logits_to_keep": targets.shape[1], "use_cache": False}
            logits = model(**batch, **kept).logits.float()
            logits = logits[:, None] if chooses else logits  # the label is all that is said
            if labels:  # the label alone, among the labels
                logits, targets = logits[:, :1, known], (targets[:, :1, None] == known).int().argmax(-1)
            counted = targets != IGNORED
            loss += functional.cross_entropy(logits[counted], targets[counted], reduction="sum").item()
            hits += int((logits.argmax(-1) == targets)[counted].sum())
            tokens += int(counted.sum())
    return 100 * hits / tokens, loss / tokens
