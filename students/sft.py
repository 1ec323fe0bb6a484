"""Learning from rows by TRL's SFT trainer, through one thin seam.

TRL brings the loop, schedules, checkpoints and devices. Ours are the batches, the loss over answers (with the teacher's
probabilities where the answer is one of closed labels), the optimizer and the dropout. Its fused loss, which cuts
memory at large vocabularies, doubles CPU time at small ones (measured), so the logits of the answer positions are taken
directly.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
)
from transformers.trainer import TRAINER_STATE_NAME
from trl import SFTConfig, SFTTrainer

from ..data.errors import BadInput
from .batches import Clock, Collator, LengthOrder, Noise
from .checkpoints import checkpoint_of, last_checkpoint, mark_whole, step_of
from .config import Encoder, Hub, StudentRecipe, Train
from .crew import ALONE, Crew, Part, full, part_state, parted, plain_class, take, whole
from .health import RECORDS, Health, Records, loads
from .objectives import ChooseLabel, Objective, SayAnswer, SayLabel, SayLikeliest, forward_is, plain_head
from .records import FILE
from .tokenizer import answer_ids
from .watchers import watchers

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

CHECKPOINTS = 8
"""Checkpoints over a training: what a kill can cost is an eighth of it."""

_ADDS = (".self_attn.o_proj", ".attn.Wo", ".mlp")
"""What a block adds to its input comes out of these, in Qwen3 and in ModernBERT."""

Show = Callable[[int, int, str], None]
"""Told how many steps of how many are done, and what else is worth a word."""


@dataclass(frozen=True)
class Pupil:
    """A student in memory that is to learn by one method."""

    recipe: StudentRecipe
    labels: tuple[str, ...]
    tokenizer: PreTrainedTokenizerFast
    model: PreTrainedModel
    learning: Any
    """The model, with adapters about it where these learn in its place."""


def learn_rows(
    pupil: Pupil, rows: Dataset, validation: Dataset, work: Path, seed: int, show: Show, crew: Crew = ALONE
) -> dict[str, int | None]:
    """Learn from encoded rows, going on from the last checkpoint in ``work``, with records beside it.

    Args:
        crew: this worker's place among several that call this at once.

    Returns:
        steps; planned, how many epochs have; best, the step whose weights are kept where patience was asked for.

    Raises:
        BadInput: the loss is not finite, or adapters are to learn on parted weights.
    """
    if crew.fsdp and pupil.recipe.train.lora:
        raise BadInput("--fsdp parts a student whose weights all learn, and train.lora adapts few; leave --fsdp out")
    train, tokenizer, model = pupil.recipe.train, pupil.tokenizer, pupil.model
    clock = Clock()
    noise = Noise(tokenizer, pupil.labels, train.noise) if pupil.labels and train.noise else None
    newest = last_checkpoint(work)
    name = crew.agree(newest.name if newest else None)
    checkpoint = work / name if name else None
    health = Health(model, has_bf16(), crew)
    records = Records(work.parent / FILE, health, crew)
    ending = [EarlyStoppingCallback(train.patience)] if train.patience else []
    told = watchers(train.report_to, work.parent, step_of(checkpoint) if checkpoint else 0) if crew.first else []
    part = Part(crew)
    validation = _some(validation, train, len(rows))
    trainer = _StudentTrainer(
        crew=crew,
        part=part,
        order=LengthOrder(rows, train.batch, seed, clock),
        student=pupil.recipe,
        health=health,
        model=pupil.learning,
        args=SFTConfig(
            **settings(train, work, seed, len(rows)) | _recorded(train, work, len(rows), bool(validation)),
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
        ),
        train_dataset=rows,
        eval_dataset=validation,
        data_collator=Collator(tokenizer.pad_token_id, seed, clock, noise, tokenizer.padding_side),
        processing_class=tokenizer,
        callbacks=[records, Steps(show, records, crew), *ending, *told],
    )
    plainly = nullcontext() if pupil.recipe.begins_as else _as_ours(model, train.dropout, part)
    objective = _objective(pupil.recipe, model, answer_ids(tokenizer, pupil.labels))
    with plainly, forward_is(objective, model):
        return trainer.learn(checkpoint)


class Seam(Trainer):  # type: ignore[misc]
    """What is ours in every one of TRL's trainers."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """The library looks weights up by name, and experts have other names on disk (transformers, issue 48805)."""
        if not isinstance(self.model, PreTrainedModel) or self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        read = plain_class(self.model).from_pretrained(resume_from_checkpoint, dtype=self.model.dtype)
        take(self.model, read.state_dict())

    def _send_telemetry(self) -> None:
        """Nothing: TRL would tell the hub which kind of model is trained, and nobody asked our users."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The report is the model's card; a checkpoint needs none."""

    def learn(self, checkpoint: Path | None) -> dict[str, int | None]:
        """Train, going on from a checkpoint."""
        self.remove_callback(PrinterCallback)
        self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        return self.learnt()

    def learnt(self) -> dict[str, int | None]:
        """steps; planned, how many all epochs have; best, the step whose weights are kept where patience is asked."""
        if getattr(self, "aux_loss_enabled", False):  # not every trainer of theirs has one
            self.model.config.output_router_logits = False  # with a cache it ends in an error
        state = self.state
        return {"steps": state.global_step, "planned": state.max_steps, "best": state.best_global_step}


class _StudentTrainer(Seam, SFTTrainer):  # type: ignore[misc]
    """The seam: our order of rows, our optimizer, and a loss that the model's forward pass returns."""

    def __init__(
        self, *, crew: Crew, part: Part, order: LengthOrder, student: StudentRecipe, health: Health, **given: Any
    ) -> None:
        self._crew = crew
        self._part = part
        self._order = order
        self._health = health
        self._collate: Collator = given["data_collator"]
        self._recipe = student.train
        self._chooses = isinstance(student.init, Encoder)
        self._ours = student.begins_as is None
        super().__init__(**given)
        self.model_accepts_loss_kwargs = False  # our loss is a mean already

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthOrder:
        return self._order

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Ours for weights that begin at random or cut; what was trained with AdamW goes on with it."""
        from .optimizer import MuonAdamW, head_first

        if self._crew.fsdp:
            parted(self.model, self._crew, self.args.device)
        rate, decay = self._recipe.learning_rate, self._recipe.weight_decay
        fitting: torch.optim.Optimizer
        if self._ours:
            fitting = MuonAdamW(self.model, rate, decay, torch.bfloat16 if self.args.bf16 else torch.float32)
        elif self._chooses:
            fitting = head_first(self.model, rate, decay)
        else:
            fitting = super().create_optimizer(model)
        self.optimizer = fitting
        return fitting

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        return self._crew.joined(model) if training else model

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        return full(super()._get_grad_norm(model, grad_norm))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Written by one worker, once all have handed over their parts."""
        if self._crew.fsdp:
            self._gathered = whole(self.model.state_dict()), whole(self.optimizer.state_dict())
        if self._crew.first:
            super()._save_checkpoint(model, trial)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        self._save(output_dir, self._gathered[0] if self._crew.fsdp else None)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self._crew.fsdp:
            torch.save(self._gathered[1], Path(output_dir) / "optimizer.pt")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self._crew.fsdp:
            plain: Any = getattr(self.optimizer, "optimizer", self.optimizer)  # the library wraps it
            part_state(getattr(plain, "parts", (plain,)))

    def learn(self, checkpoint: Path | None) -> dict[str, int | None]:
        """From a checkpoint at which patience had run out there is nothing left to do."""
        if checkpoint is not None and self._recipe.patience:
            state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
            if state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]:
                self.state = state
                self._load_best_model()
                return self.learnt()
        return super().learn(checkpoint)

    def _load_best_model(self) -> None:
        """The folder may have been moved since; and see above."""
        best = checkpoint_of(Path(self.args.output_dir), self.state.best_global_step)
        self.state.best_model_checkpoint = str(best)
        if isinstance(self.model, PreTrainedModel):
            self._load_from_checkpoint(str(best))
        else:
            super()._load_best_model()

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """On the rows as they are; whatever is drawn in between changes nothing of the training.

        Every worker reads all of them, and goes by what the first one found.
        """
        with torch.random.fork_rng(devices=[]), self._collate.noiseless():
            measured = super().evaluation_loop(*args, **kwargs)
        return measured._replace(metrics=self._crew.agree(measured.metrics))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """With what the steps since the last record told."""
        if "loss" in logs:
            logs["loss"] = self._crew.mean(logs["loss"], self.args.device)
            logs.update(self._health.read(training=True))
        elif "eval_loss" in logs:
            logs.update({f"eval_{name}": value for name, value in self._health.read(training=False).items()})
        super().log(logs, start_time)

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **_: Any
    ) -> torch.Tensor:
        if self._crew.size > 1 and model.training and not self._ours:
            # It brings dropout of its own, which is drawn for a worker's rows alone: from the step, not from what was
            # drawn before, so that a training that goes on draws what it would have drawn.
            torch.manual_seed((self.args.seed * 1_000_003 + self.state.global_step) * self._crew.size + self._crew.rank)
        batch = self._part.of(inputs) if model.training else inputs
        with torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.args.bf16):
            told: dict[str, torch.Tensor] = {"loads": loads(batch), **model(**batch)}
        if model.training:
            told = self._part.weighed(told, getattr(self.model.config, "router_aux_loss_coef", 0.0))
        self._health.add(told, training=model.training)
        return told["loss"]


def _objective(student: StudentRecipe, model: PreTrainedModel, labels: list[int]) -> Objective:
    """What suits the model and its answers.

    Raises:
        BadInput: topk, of which the model's logits are not what it learns.
    """
    topk = student.learns_by("topk")
    plain = not labels and plain_head(model)
    if topk and not plain:
        raise BadInput(
            f"train.method: topk needs logits that are a product with the model's head, and those of type "
            f"'{model.config.model_type}' are capped, scaled or shifted; use [sft]"
        )
    if plain and (topk or student.train.lora is None):
        return SayLikeliest()
    if isinstance(student.init, Encoder):
        return ChooseLabel()
    return SayAnswer(labels) if isinstance(student.init, Hub) else SayLabel(labels)


@contextmanager
def _as_ours(model: PreTrainedModel, share: float, part: Part) -> Iterator[None]:
    """Dropout on what each block adds, and twice that on embeddings; the library has no setting for it. Gone later.

    At some dozen tokens a row plain attention is faster than the fused kernel (measured).
    """

    def drop(module: nn.Module, _: Any, output: torch.Tensor) -> torch.Tensor:
        return part.dropout(output, share, module.training)

    def drop_more(module: nn.Module, _: Any, output: torch.Tensor) -> torch.Tensor:
        return part.dropout(output, min(2 * share, 0.9), module.training)

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


class Steps(TrainerCallback):  # type: ignore[misc]
    """Hands progress on, and marks a checkpoint as whole once everything of it is written."""

    def __init__(self, show: Show, records: Records | None = None, crew: Crew = ALONE) -> None:
        self._show = show
        self._records = records
        self._crew = crew

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._show(state.global_step, state.max_steps, self._records.line if self._records else "")

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._crew.first:
            mark_whole(checkpoint_of(Path(args.output_dir), state.global_step))
            self._crew.keep()
        self._crew.saved(state.global_step)


def _some(validation: Dataset, train: Train, rows: int) -> Dataset:
    """Rows to be read at every checkpoint: all where they decide, else as many as cost a hundredth of the training."""
    most = max(train.batch, train.epochs * rows * 3 // (100 * CHECKPOINTS))  # learning a row is reading it three times
    step = 1 if train.patience else math.ceil(len(validation) / most)
    return validation.select(range(0, len(validation), step)) if step > 1 else validation


def settings(train: Train, work: Path, seed: int, rows: int) -> dict[str, Any]:
    """What every one of TRL's trainers is told."""
    steps = train.epochs * math.ceil(rows / train.batch)
    on_gpu = torch.cuda.is_available()
    return {
        "output_dir": str(work),
        "num_train_epochs": train.epochs,
        "per_device_train_batch_size": train.batch,
        "learning_rate": train.learning_rate,
        "weight_decay": train.weight_decay,
        "lr_scheduler_type": "linear",
        "warmup_steps": max(1, steps // 20),
        "max_grad_norm": 1.0,
        "seed": seed,
        "bf16": has_bf16(),
        "use_cpu": not on_gpu,
        "gradient_checkpointing": False,
        "remove_unused_columns": False,
        "save_strategy": "steps",
        "save_steps": max(1, steps // CHECKPOINTS),
        "save_total_limit": 2,
        "logging_strategy": "no",
        "logging_nan_inf_filter": False,  # it would wait for the device in every step
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "dataloader_num_workers": min(6, (os.cpu_count() or 1) - 1) if on_gpu else 0,
    }


def _recorded(train: Train, work: Path, rows: int, validated: bool) -> dict[str, Any]:
    """What is told of records and validation."""
    steps = train.epochs * math.ceil(rows / train.batch)
    return {
        "save_total_limit": 3 if train.patience else 2,  # the best beside the last two
        "eval_strategy": "steps" if validated else "no",
        "eval_steps": max(1, steps // CHECKPOINTS),
        "per_device_eval_batch_size": train.batch,
        "prediction_loss_only": True,
        "load_best_model_at_end": train.patience is not None,
        "metric_for_best_model": "eval_loss" if train.patience else None,
        "greater_is_better": False if train.patience else None,
        "restore_callback_states_from_checkpoint": train.patience is not None,
        "logging_strategy": "steps",
        "logging_steps": max(1, steps // RECORDS),
        "run_name": f"{work.parent.parent.name}/{work.parent.name}",
    }


def has_bf16() -> bool:
    """Whether this machine multiplies bfloat16 faster than float32.

    On a CPU that takes tiles: with the vector instructions alone bfloat16 is half as fast (100 against 190 GFLOP/s).
    """
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_amx_tile_supported())
