"""Workers that learn one student together, so that the weights are those that one process alone would have learnt.

Every worker draws the same batches, noise and dropout as a process alone, and keeps every n-th row of each batch. What
it lost on them counts as much as their answer tokens are of the whole batch's. Then either gradients are averaged
(DDP), or weights, gradients and the optimizer's state are parted between the workers as well (FSDP2). Sums run in
another order than in one process, which is all that tells the results apart (some 1e-7 of a weight); a model that was
trained before and has dropout of its own draws it for each worker's rows alone.

The trainer's library is told nothing of the others: in each worker it sees one process and whole batches, so that there
is one loop, one checkpoint and one state of the random numbers, and a training may go on with fewer or more workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import functional
from torch.utils._pytree import tree_map

from .batches import IGNORED

Value = TypeVar("Value")

_counts = ContextVar("counts", default=True)
"""Whether the rows that this worker is at are its own; a batch may have fewer rows than there are workers."""


def nothing(*_: Any) -> None:
    """What a process alone has to do for others."""


@dataclass(frozen=True)
class Crew:
    """One worker's place among those that learn a student. All of them call the same methods in the same order."""

    rank: int = 0
    size: int = 1
    fsdp: bool = False
    """Weights, gradients and the optimizer's state are parted between the workers."""
    keep: Callable[[], None] = nothing
    """Puts what is in the student's folder where the others find it."""
    fetch: Callable[[], object] = nothing
    """Gets what the first worker has kept."""
    saved: Callable[[int], None] = nothing
    """Told by every worker that the checkpoint of a step is written."""

    @property
    def first(self) -> bool:
        """Whether this worker is the one that writes."""
        return self.rank == 0

    def agree(self, value: Value) -> Value:
        """The first worker's value, for whom all the others wait."""
        if self.size == 1:
            return value
        told = [value]
        dist.broadcast_object_list(told, src=0)
        return told[0]

    def total(self, value: Tensor) -> Tensor:
        """The sum over all workers."""
        if self.size > 1:
            value = value.detach().clone()
            dist.all_reduce(value)
        return value

    def mean(self, value: float, device: torch.device) -> float:
        """Over all workers, where the device is one that they can talk by."""
        return self.total(torch.tensor(value, dtype=torch.float64, device=device)).item() / self.size

    @contextmanager
    def one_before_the_others(self) -> Iterator[None]:
        """Within, the first worker writes files, and the others find them when their turn comes."""
        if not self.first:
            self.agree(None)
            self.fetch()
        yield
        if self.first:
            self.keep()
            self.agree(None)

    def mine(self, rows: int) -> Sequence[int]:
        """Numbers of the rows of a batch that are this worker's; where there are too few, one that counts nothing."""
        return range(self.rank, rows, self.size) or range(1)

    def joined(self, model: Any) -> Any:
        """The model whose gradients are those of all workers."""
        if self.size == 1 or self.fsdp:
            return model
        # A head or an expert may be left out of a step, as in one process.
        return nn.parallel.DistributedDataParallel(model, find_unused_parameters=True, broadcast_buffers=False)


ALONE = Crew()


class Part:
    """A worker's rows of whole batches: which they are, what is dropped out of them, and how much they count."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._rows = 0
        self._share: Tensor | float = 1.0

    def of(self, whole: dict[str, Tensor]) -> dict[str, Tensor]:
        """This worker's rows of a batch; where rows have states, `state_size` [] is the mean square of all of them."""
        if self._crew.size == 1:
            return whole
        self._rows = len(whole["targets"])
        _counts.set(self._crew.rank < self._rows)
        mine = list(self._crew.mine(self._rows))
        part = {name: value[mine] for name, value in whole.items()}
        if "state" in whole:
            part["state_size"] = whole["state"].square().mean()
        here, there = ((batch["targets"] != IGNORED).sum() for batch in (part, whole))
        self._share = _counts.get() * here / there
        return part

    def weighed(self, told: Mapping[str, Tensor], even: float) -> dict[str, Tensor]:
        """What an objective told of these rows, so that the mean of all workers' losses is the whole batch's.

        How evenly experts are used is of the whole batch already (`everywhere`), and its gradient a part.

        Args:
            told: scalars, which are means over answer tokens, and sums over rows.
            even: how much of the loss how evenly experts are used is.
        """
        if self._crew.size == 1:
            return dict(told)
        uneven = even * told["experts"] if "experts" in told else torch.zeros(())
        weight = self._crew.size * self._share
        weighed = {name: value * (_counts.get() if value.ndim else weight) for name, value in told.items()}
        evened = uneven + (self._crew.size - 1) * (uneven - uneven.detach())  # its value once, its gradient of each
        weighed["loss"] = (told["loss"] - uneven) * weight + evened
        return weighed | {name: told[name] for name in ("experts",) if name in told}

    def dropout(self, output: Tensor, share: float, training: bool) -> Tensor:
        """Dropout as it is drawn for a whole batch."""
        if self._crew.size == 1 or not training:
            return functional.dropout(output, share, training)
        kept = functional.dropout(output.new_ones(self._rows, *output.shape[1:]), share)
        return output * kept[list(self._crew.mine(self._rows))]


def everywhere(sums: Tensor) -> Tensor:
    """Sums over the rows of all workers, whose gradient is that of this worker's rows."""
    if not dist.is_initialized():
        return sums
    sums = sums * _counts.get()
    total = sums.detach().clone()
    dist.all_reduce(total)
    return sums + (total - sums).detach()


def parted(model: nn.Module, crew: Crew, device: torch.device) -> None:
    """Part a model's weights between the workers, in place; they are those of the first worker.

    The last layer is parted with the model as a whole, whose weights are there in all of a step, because `last_states`
    calls its pieces one by one.
    """
    for value in model.state_dict().values():
        dist.broadcast(value, src=0)
    mesh = init_device_mesh(device.type, (crew.size,))
    layers = next(module for module in model.modules() if isinstance(module, nn.ModuleList))
    for layer in list(layers)[:-1]:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def full(value: Value) -> Value:
    """A tensor in one piece, where it is parted; all workers take part."""
    gathered: Any = value.full_tensor() if isinstance(value, DTensor) else value
    return cast(Value, gathered)


def whole(values: Value) -> Value:
    """The same with every parted tensor in one piece, in main memory; all workers take part."""
    gathered: Value = tree_map(lambda one: full(one).cpu() if isinstance(one, DTensor) else one, values)
    return gathered


def part_state(optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Part what optimizers have loaded as their weights are parted."""
    for optimizer in optimizers:
        for weight, state in optimizer.state.items():
            for name, value in state.items():
                if value.shape == weight.shape and not isinstance(value, DTensor):
                    state[name] = like(value, weight)


def like(value: Tensor, weight: Tensor) -> Tensor:
    """The worker's part of a tensor that all of them have, where a weight is parted."""
    if not isinstance(weight, DTensor):
        return value
    return distribute_tensor(value, weight.device_mesh, weight.placements, src_data_rank=None)


@torch.no_grad()
def take(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load weights in one piece into a model that may be parted."""
    for name, weight in model.state_dict().items():
        weight.copy_(like(weights[name].to(weight.device), weight))


def plain_class(model: Any) -> Any:
    """The class of a model as it was before its weights were parted."""
    return next(kind for kind in type(model).__mro__ if not issubclass(kind, FSDPModule))


def put_together(model: Any, weights: Mapping[str, Tensor]) -> Any:
    """A model in one piece, like one whose weights are parted."""
    made = plain_class(model)(model.config)
    made.load_state_dict(weights)
    if hasattr(model, "generation_config"):
        made.generation_config = model.generation_config
    return made
