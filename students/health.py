"""How a training goes: a record about every hundredth of it, a live line, and what in the records is worrying.

What an objective tells of a batch is added up where it is computed and read once a record, so that no step waits for
the device. A record is a line of `health.jsonl`. One is written at every checkpoint too, so that a training that goes
on after a kill writes what it would have written: lines after its checkpoint are dropped, and none is missing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from ..data.errors import BadInput
from .batches import IGNORED
from .crew import Crew
from .flops import operations, peak
from .records import as_line, live_line, read_records

RECORDS = 100
"""Over a training, about."""

_PARTS = ("cross_entropy", "kl", "experts", "state")
"""Of a loss, as objectives name them; means over the steps of a record, in nats where they are."""


class Health:
    """What the steps since the last record told, those of training and of validation apart.

    Args:
        model: the student, without adapters about it.
        crew: the workers that learn it, whose steps are taken together.
    """

    def __init__(self, model: Any, bf16: bool, crew: Crew) -> None:
        self._model = model
        self._peak = peak(bf16)
        self._crew = crew
        self._sums: dict[bool, dict[str, Tensor]] = {True: {}, False: {}}
        self._began = time.perf_counter()

    def step_begins(self) -> None:
        """Start the clock, at the first step of a record: validation and checkpoints are not counted."""
        if not self._sums[True]:
            self._began = time.perf_counter()

    def add(self, told: Mapping[str, Tensor], *, training: bool) -> None:
        """Take what an objective told of a batch, with its `loads`."""
        sums = self._sums[training]
        for name, value in told.items():
            if name in _PARTS:  # a part may be missing in some batches
                value = torch.stack([value.detach().float(), value.new_ones(())])
            sums[name] = sums[name] + value.detach() if name in sums else value.detach()

    def read(self, *, training: bool) -> dict[str, float]:
        """What was told since the last call; waits for the device.

        Returns:
            Parts of the loss; agreement, with the teacher's likeliest token or the answer's, where an answer goes on (0
            to 100); tail, the probability that the teacher's stored tokens leave out; end_gap, the student's
            probability of the end where an answer ends less that where it goes on (1 at best, 0 if it knows nothing of
            ends); dead_experts, the share that no token chose; tokens_per_second; mfu. What is not known is absent.
        """
        sums, self._sums[training] = self._sums[training], {}
        if not sums:
            return {}
        flat = torch.cat([value.flatten().float() for value in sums.values()])
        numbers = iter((self._crew.total(flat) if training else flat).tolist())  # the one wait
        told = {name: [next(numbers) for _ in range(value.numel())] for name, value in sums.items()}
        seconds = time.perf_counter() - self._began
        found = {part: total / steps for part in _PARTS if part in told for total, steps in [told[part]]}
        found |= dict(_measures(told))
        if training:
            found["tokens_per_second"] = told["loads"][0] / seconds
            if self._peak:
                found["mfu"] = operations(self._model, *told["loads"]) / seconds / (self._peak * self._crew.size)
        return found


def loads(batch: Mapping[str, Tensor]) -> Tensor:
    """Of a batch the tokens without padding, the sum of the rows' squared lengths, and the answer tokens, [3]."""
    lengths = batch["attention_mask"].sum(1)
    return torch.stack([lengths.sum(), lengths.square().sum(), (batch["targets"] != IGNORED).sum()])


def _measures(told: Mapping[str, Sequence[float]]) -> Iterator[tuple[str, float]]:
    for name, measure, scale in (("agreed", "agreement", 100), ("tail", "tail", 1)):
        if name in told and told[name][1]:
            yield measure, scale * told[name][0] / told[name][1]
    if "ended" in told:
        there, ends, elsewhere, others = told["ended"]
        if ends and others:
            yield "end_gap", there / ends - elsewhere / others
    if "chosen" in told:
        yield "dead_experts", sum(tokens == 0 for tokens in told["chosen"]) / len(told["chosen"])


class Records(TrainerCallback):  # type: ignore[misc]
    """Writes what the trainer logs as lines of a file, one a record; of several workers the first does.

    Raises:
        BadInput: the loss is not finite.
    """

    def __init__(self, file: Path, health: Health, crew: Crew) -> None:
        self.line = ""
        """The last record, for people."""
        self._file = file
        self._health = health
        self._writes = crew.first
        self._waiting: dict[str, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._writes:
            return
        kept = [record for record in read_records(self._file) if record["step"] <= state.global_step]
        unfinished = self._file.with_suffix(".part")
        unfinished.write_text("".join(map(as_line, kept)))
        unfinished.replace(self._file)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._health.step_begins()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if control.should_save:  # a record never spans a checkpoint
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **kwargs: Any) -> None:
        if "loss" not in logs or not self._writes:
            return
        _check("loss", logs["loss"], args, state)
        own = {"step": state.global_step, "epoch": state.epoch, "loss": logs["loss"], "mfu": None}
        self._waiting = {**own, **logs}
        self.line = live_line(self._waiting)
        if not control.should_evaluate:
            self._write()

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Mapping[str, float], **kwargs: Any) -> None:
        if not self._waiting:
            return
        _check("validation loss", metrics["eval_loss"], args, state)
        self._waiting["validation_loss"] = metrics["eval_loss"]
        if "eval_agreement" in metrics:
            self._waiting["validation_agreement"] = metrics["eval_agreement"]
        self._write()

    def _write(self) -> None:
        rounded = {
            name: round(value, 6) if isinstance(value, float) else value for name, value in self._waiting.items()
        }
        with self._file.open("a") as file:
            file.write(as_line(rounded))
        self._waiting = {}


def _check(what: str, loss: float, args: Any, state: Any) -> None:
    if not math.isfinite(loss):
        raise BadInput(
            f"train.learning_rate = {args.learning_rate:g}: the {what} is {loss} at step {state.global_step} of "
            f"{state.max_steps}; lower it"
        )
