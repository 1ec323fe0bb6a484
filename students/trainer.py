"""Training a student: TRL's trainer through one thin seam.

TRL brings the loop, schedules, checkpoints and devices. Ours are the batches, the loss over answers (with the teacher's
probabilities where the answer is one of closed labels), the optimizer and the dropout. Its fused loss, which cuts
memory at large vocabularies, doubles CPU time at small ones (measured), so the logits of the answer positions are taken
directly.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerFast, PrinterCallback, TrainerCallback, set_seed
from transformers.utils import logging as hf_logging
from trl import SFTConfig, SFTTrainer

from ..data.errors import BadInput, NotEnoughData
from .batches import IGNORED, Clock, Collator, LengthOrder, Noise, encode
from .config import UNTRAINED, Encoder, Hub, StudentRecipe, Train
from .cut import Larger
from .lora import adapted
from .objectives import ChooseLabel, Objective, SayAnswer, SayLabel, SayLikeliest, forward_is, plain_head
from .tokenizer import answer_ids, only_reads, save_tokenizer, turn_end
from .weights import Learnt, Source, TrainingRows, first_weights, keep_untrained

CHECKPOINTS = 8
"""Checkpoints over a training: what a kill can cost is an eighth of it."""

FINISHED = "trained.json"
"""Written into a student's folder last."""

_ADDS = (".self_attn.o_proj", ".attn.Wo", ".mlp")
"""What a block adds to its input comes out of these, in Qwen3 and in ModernBERT."""

Show = Callable[[int, int, str], None]


def train_student(
    student: StudentRecipe,
    rows: TrainingRows,
    folder: Path,
    seed: int,
    show: Show,
    source: Callable[[], Source] | None = None,
) -> dict[str, Any]:
    """Train one student into ``folder``; goes on from its last checkpoint, and is a no-op on a finished one.

    Args:
        student: with one method; `phases` are its methods one by one.
        source: loads the model that a student of kind `layers` is cut from, or that one of kind `hub` begins as, or
            finds the folder that an earlier method left it in.

    Returns:
        validation_agreement (0 to 100), validation_loss (nats), parameters, bytes, vocabulary, steps, seconds.

    Raises:
        NotEnoughData: no row is short enough to train on.
    """
    import json

    if (folder / FINISHED).exists():
        known: dict[str, Any] = json.loads((folder / FINISHED).read_text())
        return known
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    started = time.monotonic()
    work = folder / "work"
    set_seed(seed)
    begun = source() if source else None
    tokenizer, model = first_weights(student.init, rows, seed, work / "tokenizer", begun)
    if not isinstance(begun, Learnt):
        keep_untrained(model, tokenizer, folder.parent / UNTRAINED)
    soft = bool(rows.labels) and student.train.labels != "hard"
    train_rows = encode(
        rows.train,
        tokenizer,
        rows.labels,
        soft=soft,
        max_length=student.train.max_length,
        cache=work / "train.arrow",
        states=begun.states if isinstance(begun, Larger) and rows.only_labels else None,
        topk=student.learns_by("topk"),
    )
    del begun  # training needs the memory
    if len(train_rows) == 0:
        raise NotEnoughData(
            f"train: no row fits into max_length = {student.train.max_length} tokens; raise train.max_length"
        )
    labels = answer_ids(tokenizer, rows.labels)
    learning = model
    if student.train.lora:
        own = [] if student.learns_by("topk") else [*labels, turn_end(tokenizer)]
        learning = adapted(model, student.train.lora, own)
    clock = Clock()
    pad = tokenizer.pad_token_id
    noise = Noise(tokenizer, rows.labels, student.train.noise) if rows.labels and student.train.noise else None
    trainer = _StudentTrainer(
        order=LengthOrder(train_rows, student.train.batch, seed, clock),
        student=student,
        model=learning,
        args=_arguments(student.train, work, seed, len(train_rows)),
        train_dataset=train_rows,
        data_collator=Collator(pad, seed, clock, noise, tokenizer.padding_side),
        processing_class=tokenizer,
        callbacks=[_Show(show)],
    )
    trainer.remove_callback(PrinterCallback)
    plainly = nullcontext() if student.begins_as else _as_ours(model, student.train.dropout)
    objective = _objective(student, model, labels)
    with plainly, forward_is(objective, model):
        trainer.train(resume_from_checkpoint=_last_checkpoint(work))
    if trainer.aux_loss_enabled:
        model.config.output_router_logits = False  # wanted in training alone: with a cache it ends in an error
    if student.train.lora:
        learning.merge_and_unload()
    agreement, loss = validate(model, tokenizer, rows, student, work)
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    result = {
        "validation_agreement": agreement,
        "validation_loss": loss,
        "parameters": model.num_parameters(),
        "bytes": (folder / "model.safetensors").stat().st_size,
        "vocabulary": len(tokenizer),
        "rows": len(train_rows),
        "steps": trainer.state.global_step,
        "seconds": round(time.monotonic() - started, 1),
    }
    (folder / FINISHED).write_text(json.dumps(result))
    return result


def validate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    rows: TrainingRows,
    student: StudentRecipe,
    work: Path,
) -> tuple[float, float]:
    """Share of answer tokens (closed labels: of answers) predicted as given, 0 to 100, and the mean loss in nats.

    Zero and infinity where the validation side is empty.
    """
    held_out = encode(
        rows.validation,
        tokenizer,
        rows.labels,
        soft=False,
        max_length=student.train.max_length,
        cache=work / "validation.arrow",
        topk=student.learns_by("topk"),
    )
    if len(held_out) == 0:
        return 0.0, math.inf
    labels = torch.tensor(answer_ids(tokenizer, rows.labels), device=model.device)
    collate = Collator(tokenizer.pad_token_id, 0, Clock(), None, tokenizer.padding_side)
    chooses = only_reads(tokenizer)
    hits, loss, tokens = 0, 0.0, 0
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(held_out), student.train.batch):
            batch = collate(list(held_out.select(range(start, min(start + student.train.batch, len(held_out))))))
            batch = {name: value.to(model.device) for name, value in batch.items()}
            targets = batch.pop("targets")
            kept = {} if chooses else {"logits_to_keep": targets.shape[1], "use_cache": False}
            logits = model(**batch, **kept).logits.float()
            logits = logits[:, None] if chooses else logits  # the label is all that is said
            if rows.labels:  # the label alone, among the labels
                logits, targets = logits[:, :1, labels], (targets[:, :1, None] == labels).int().argmax(-1)
            counted = targets != IGNORED
            loss += functional.cross_entropy(logits[counted], targets[counted], reduction="sum").item()
            hits += int((logits.argmax(-1) == targets)[counted].sum())
            tokens += int(counted.sum())
    return 100 * hits / tokens, loss / tokens


class _StudentTrainer(SFTTrainer):  # type: ignore[misc]
    """The seam: our order of rows, our optimizer, and a loss that the model's forward pass returns."""

    def __init__(self, *, order: LengthOrder, student: StudentRecipe, **given: Any) -> None:
        self._order = order
        self._recipe = student.train
        self._ours = student.begins_as is None
        super().__init__(**given)
        self.model_accepts_loss_kwargs = False  # our loss is a mean already

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthOrder:
        return self._order

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Ours for weights that begin at random or cut; what was trained with AdamW goes on with it."""
        from .optimizer import MuonAdamW

        if not self._ours:
            adamw: torch.optim.Optimizer = super().create_optimizer(model)
            return adamw
        dtype = torch.bfloat16 if self.args.bf16 else torch.float32
        self.optimizer = MuonAdamW(self.model, self._recipe.learning_rate, self._recipe.weight_decay, dtype)
        return self.optimizer

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """The library looks weights up by name, and experts have other names on disk (transformers, issue 48805)."""
        if not isinstance(self.model, PreTrainedModel) or self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        read = type(self.model).from_pretrained(resume_from_checkpoint, dtype=self.model.dtype)
        self.model.load_state_dict(read.state_dict())

    def _send_telemetry(self) -> None:
        """Nothing: TRL would tell the hub which kind of model is trained, and nobody asked our users."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The report is the model's card; a checkpoint needs none."""

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **_: Any
    ) -> torch.Tensor:
        with torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.args.bf16):
            loss: torch.Tensor = model(**inputs)["loss"]
        return loss


def _objective(student: StudentRecipe, model: PreTrainedModel, labels: list[int]) -> Objective:
    """What suits the model and its answers.

    Raises:
        BadInput: topk, of which the model's logits are not what it learns.
    """
    if student.learns_by("topk") and not plain_head(model):
        raise BadInput(
            f"train.method: topk needs logits that are a product with the model's head, and those of type "
            f"'{model.config.model_type}' are capped, scaled or shifted; use [sft]"
        )
    if not labels and student.train.lora is None and plain_head(model):
        return SayLikeliest()
    if isinstance(student.init, Encoder):
        return ChooseLabel()
    return SayAnswer(labels) if isinstance(student.init, Hub) else SayLabel(labels)


@contextmanager
def _as_ours(model: PreTrainedModel, share: float) -> Iterator[None]:
    """Dropout on what each block adds, and twice that on embeddings; the library has no setting for it. Gone later.

    At some dozen tokens a row plain attention is faster than the fused kernel (measured).
    """

    def drop(module: nn.Module, _: Any, output: torch.Tensor) -> torch.Tensor:
        return functional.dropout(output, share, module.training)

    def drop_more(module: nn.Module, _: Any, output: torch.Tensor) -> torch.Tensor:
        return functional.dropout(output, min(2 * share, 0.9), module.training)

    hooks = [model.get_input_embeddings().register_forward_hook(drop_more)]
    adds = [module for name, module in model.named_modules() if name.endswith(_ADDS)]
    hooks += [module.register_forward_hook(drop) for module in adds]
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation("sdpa")
        for hook in hooks:
            hook.remove()


class _Show(TrainerCallback):  # type: ignore[misc]
    """Hands progress on, and marks a checkpoint as whole once everything of it is written."""

    def __init__(self, show: Show) -> None:
        self._show = show

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._show(state.global_step, state.max_steps, "")

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / "whole").touch()


def _last_checkpoint(work: Path) -> str | None:
    """The newest checkpoint that was written to its end."""
    whole = [mark.parent for mark in work.glob("checkpoint-*/whole")]
    newest = max(whole, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)
    return str(newest) if newest else None


def _arguments(train: Train, work: Path, seed: int, rows: int) -> SFTConfig:
    steps = train.epochs * math.ceil(rows / train.batch)
    return SFTConfig(
        output_dir=str(work),
        num_train_epochs=train.epochs,
        per_device_train_batch_size=train.batch,
        learning_rate=train.learning_rate,
        weight_decay=train.weight_decay,
        lr_scheduler_type="linear",
        warmup_steps=max(1, steps // 20),
        max_grad_norm=1.0,
        seed=seed,
        bf16=_has_bf16(),
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        max_length=None,
        save_strategy="steps",
        save_steps=max(1, steps // CHECKPOINTS),
        save_total_limit=2,
        logging_strategy="no",
        logging_nan_inf_filter=False,  # it would wait for the device in every step
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        dataloader_num_workers=min(6, (os.cpu_count() or 1) - 1) if torch.cuda.is_available() else 0,
    )


def _has_bf16() -> bool:
    """Whether this machine multiplies bfloat16 faster than float32.

    On a CPU that takes tiles: with the vector instructions alone bfloat16 is half as fast (100 against 190 GFLOP/s).
    """
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_amx_tile_supported())
