"""What a student is to get right, one objective for each way to learn; all look alike to the trainer.

An objective takes the place of the model's own forward pass while it trains, so that whatever wraps the model for many
devices sees one call from a batch to its loss.

Shapes: B rows, T positions, C answer positions kept, K stored tokens, L labels, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from .batches import IGNORED
from .experts import chosen, unevenness
from .shortcut import last_states
from .topk import watched_loss

Forward = Callable[..., Any]


class Objective(Protocol):
    """From a batch, as `Collator` makes it, to what the student lost on it."""

    def __call__(self, model: Any, forward: Forward, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """`loss`, a scalar in nats to be differentiated, and by name what else is worth a record.

        Those are scalars, the parts of the loss, and sums with what they are sums over, as `_watched` has them. None
        may wait for the device.

        Args:
            forward: the model's own.
        """
        ...


@contextmanager
def forward_is(objective: Objective, model: Any) -> Iterator[None]:
    """Within, a call of the model is a call of the objective; the model's own forward pass is back afterwards."""
    plain = model.forward

    def lesson(**batch: Tensor | None) -> dict[str, Tensor]:
        given = {name: value for name, value in batch.items() if value is not None}  # PEFT hands on all that it knows
        return objective(model, plain, given)

    model.forward = lesson
    try:
        yield
    finally:
        del model.forward  # it hid the method of the class


@dataclass(frozen=True)
class SayAnswer:
    """The answer, token by token, by any causal model; experts are kept busy alike where the model has some."""

    labels: list[int]
    """Token of each closed label."""

    def __call__(self, model: Any, forward: Forward, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        targets, probs = batch.pop("targets"), batch.pop("probs", None)
        said = forward(**batch, use_cache=False, logits_to_keep=targets.shape[1])
        told = answer_loss(said.logits, targets, probs, torch.tensor(self.labels, device=targets.device))
        return _evened(told, model, _routed(said), batch)


@dataclass(frozen=True)
class SayLabel:
    """The answer of a small Qwen3 model; where it is one token, at less work, and from the hidden state it should have.

    Other answers are learnt in the same pass where rows have both.
    """

    labels: list[int]
    """Token of each closed label."""

    def __call__(self, model: Any, forward: Forward, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        targets, probs, wanted = batch.pop("targets"), batch.pop("probs", None), batch.pop("state", None)
        size = batch.pop("state_size", None)
        keep = targets.shape[1]
        routed: Sequence[Tensor] | None
        if self.labels and keep == 2:
            states, routed = last_states(model, keep=keep, **batch)
        else:
            said = model.model(**batch, use_cache=False)
            states, routed = said.last_hidden_state[:, -keep:], _routed(said)
        logits = model.lm_head(states)
        told = answer_loss(logits, targets, probs, torch.tensor(self.labels, device=targets.device))
        if wanted is None:
            return _evened(told, model, routed, batch)
        apart = state_loss(states[:, 0], wanted, size)
        return {**told, "loss": told["loss"] + apart, "state": apart}


@dataclass(frozen=True)
class ChooseLabel:
    """The label, by a model with a head for the labels; targets and probabilities are by their numbers."""

    def __call__(self, model: Any, forward: Forward, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        targets, probs = batch.pop("targets"), batch.pop("probs", None)
        logits_BL = forward(**batch).logits.float()
        loss = functional.cross_entropy(logits_BL, targets[:, 0] if probs is None else probs)
        right = logits_BL.detach().argmax(-1) == targets[:, 0]
        agreed = torch.stack([right.sum(), right.new_full((), len(right), dtype=torch.long)])
        return {"loss": loss, "cross_entropy": loss, "agreed": agreed}


@dataclass(frozen=True)
class SayLikeliest:
    """The teacher's likeliest tokens at every answer position, as `topk_loss` has it; else the answer itself.

    Full logits of text are never kept, at however large a vocabulary. The model needs a plain head.
    """

    def __call__(self, model: Any, forward: Forward, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        targets = batch.pop("targets")
        ids, logps = batch.pop("top_ids", targets[..., None]), batch.pop("top_logps", None)
        said = model.get_decoder()(**batch, use_cache=False)
        states, there = said.last_hidden_state[:, -targets.shape[1] :], targets != IGNORED
        head, end = model.get_output_embeddings().weight, targets[0, -1]
        sure = torch.zeros_like(ids[there], dtype=torch.float32)
        loss, seen = watched_loss(states[there], head, ids[there], sure if logps is None else logps[there], end)
        told = _watched(seen[:, 0], seen[:, 1], targets[there], end)
        if logps is None:
            return _evened({"loss": loss, "cross_entropy": loss, **told}, model, _routed(said), batch)
        goes_on = targets[there] != end  # where the end stands the teacher told nothing
        tail = torch.stack([(seen[:, 2] * goes_on).sum(), goes_on.sum()])
        return _evened({"loss": loss, "kl": loss, "tail": tail, **told}, model, _routed(said), batch)


def _routed(said: Any) -> Sequence[Tensor] | None:
    """What the routers said, of a model that has some."""
    routed: Sequence[Tensor] | None = getattr(said, "router_logits", None)
    return routed


def _evened(
    told: dict[str, Tensor], model: Any, routed: Sequence[Tensor] | None, batch: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What is told, and where routers said something, what keeps experts busy alike and whom tokens chose."""
    if not routed:
        return told
    config, mask = model.config, batch["attention_mask"]
    uneven = unevenness(routed, mask, config.num_experts_per_tok)
    loss = told["loss"] + config.router_aux_loss_coef * uneven
    return {**told, "loss": loss, "experts": uneven, "chosen": chosen(routed, mask, config.num_experts_per_tok)}


def _watched(agreed: Tensor, ended: Tensor, targets: Tensor, end: Tensor) -> dict[str, Tensor]:
    """Sums over the positions of a batch, all three of one shape.

    Args:
        agreed: 1 where no token is likelier than the one to be said.
        ended: the student's probability of the end.
        end: the token that ends an answer: the last target of every row.

    Returns:
        agreed: how often it is, and of how many, where the answer goes on; ended: the sum at the ends, how many these
        are, the sum where the answer goes on, and how many these are.
    """
    ends = targets == end
    goes_on = (targets != IGNORED) & ~ends
    sums = [ended * ends, ends, ended * goes_on, goes_on]
    return {
        "agreed": torch.stack([(agreed * goes_on).sum().float(), goes_on.sum().float()]),
        "ended": torch.stack([part.sum().float() for part in sums]),
    }


def plain_head(model: Any) -> bool:
    """Whether the logits are the states times the head and no more, neither capped nor scaled nor shifted."""
    ids = torch.arange(1, 5, device=model.device)[None]
    with torch.no_grad():
        said = model(input_ids=ids, use_cache=False).logits
        plain = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        plain = plain @ model.get_output_embeddings().weight.T
        apart = (said - plain).abs().max() / plain.abs().max().clamp(min=1e-6)
    # A bias may still be nought, and a cap does nothing to small logits.
    bias = getattr(model.get_output_embeddings(), "bias", None)
    cap = getattr(model.config, "final_logit_softcapping", None)
    return bool(apart < 1e-3) and bias is None and cap is None


def state_loss(states_BD: Tensor, wanted_BD: Tensor, size: Tensor | None = None) -> Tensor:
    """Squared error of the state before the answer, as a share of what is wanted: 1 for a student that says nothing.

    Args:
        size: mean square of what is wanted, of a batch that these rows are a part of.

    Source: Jiao et al. 2020, arXiv:1909.10351 (hidden states say more of a row than the answer alone).
    """
    size = wanted_BD.square().mean() if size is None else size
    return (states_BD.float() - wanted_BD).square().mean() / size


def answer_loss(logits_BCV: Tensor, targets_BC: Tensor, probs_BL: Tensor | None, labels_L: Tensor) -> dict[str, Tensor]:
    """Cross-entropy of the answer, over the whole vocabulary; the first token against the teacher's probabilities.

    Args:
        targets_BC: token to be said at each position, `IGNORED` for none.
        probs_BL: probability of each label, summing to 1; None where the answer is the target alone.
        labels_L: token of each label.

    Returns:
        `loss`, a scalar in nats, the mean over answer tokens; the same as `cross_entropy`; and `_watched`.
    Source: Hinton et al. 2015, arXiv:1503.02531 (soft targets, temperature 1).
    """
    logps = functional.log_softmax(logits_BCV.float(), dim=-1)
    if probs_BL is None:
        loss = functional.nll_loss(logps.flatten(0, 1), targets_BC.flatten(), ignore_index=IGNORED)
    else:
        first = -(probs_BL * logps[:, 0][:, labels_L]).sum(-1).mean()
        rest = functional.nll_loss(logps[:, 1:].flatten(0, 1), targets_BC[:, 1:].flatten(), ignore_index=IGNORED)
        loss = (first + rest) / 2
    seen, end = logps.detach(), targets_BC[0, -1]
    said = seen.gather(-1, targets_BC.clamp(min=0)[..., None])[..., 0]
    ended = seen.index_select(-1, end[None])[..., 0].exp()
    return {"loss": loss, "cross_entropy": loss, **_watched(said >= seen.amax(-1), ended, targets_BC, end)}
