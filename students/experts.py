"""Experts that are kept busy alike: a router that sends everything to a few leaves the others untrained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .crew import everywhere


def unevenness(router_logits: Sequence[Tensor], mask_BT: Tensor, active: int) -> Tensor:
    """How unevenly tokens are spread over a layer's experts, mean over the layers.

    The library's own loss adds the layers up first: an expert that is idle in one of them and overrun in another counts
    as even there. Workers that learn together count the tokens of all of them.

    Args:
        router_logits: of each layer [B * S, E], for the last S positions of T.
        active: experts that a token passes.

    Returns:
        Scalar: `active` where all are busy alike, and up to E times that.
    Source: Fedus et al. 2021, arXiv:2101.03961 (equations 4 to 6).
    """
    layers = []
    for logits in router_logits:
        there, likely = _there(logits, mask_BT), logits.float().softmax(-1)
        experts = logits.shape[-1]
        sums = [(_picks(logits, active) * there).sum(0), (likely * there).sum(0), there.sum().expand(experts)]
        passed, wanted, tokens = everywhere(torch.stack(sums))
        layers.append(experts * (passed * wanted / tokens**2).sum())
    return torch.stack(layers).mean()


def chosen(router_logits: Sequence[Tensor], mask_BT: Tensor, active: int) -> Tensor:
    """How many tokens chose each expert, [layers, E]; shapes as in `unevenness`."""
    return torch.stack([(_picks(logits, active) * _there(logits, mask_BT)).sum(0) for logits in router_logits])


def _picks(logits: Tensor, active: int) -> Tensor:
    """1 where a token chose an expert, [B * S, E]."""
    return torch.zeros(logits.shape, device=logits.device).scatter_(1, logits.detach().topk(active).indices, 1.0)


def _there(logits: Tensor, mask_BT: Tensor) -> Tensor:
    """1 for every token that is no padding, [B * S, 1]."""
    return mask_BT[:, -(len(logits) // len(mask_BT)) :].reshape(-1, 1).float()
