"""Experts that are kept busy alike: a router that sends everything to a few leaves the others untrained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func


def unevenness(router_logits: Sequence[Tensor], mask_BT: Tensor, active: int) -> Tensor:
    """How unevenly tokens are spread over a layer's experts, mean over the layers.

    The library's own loss adds the layers up first: an expert that is idle in one of them and overrun in another counts
    as even there.

    Args:
        router_logits: of each layer [B * S, E], for the last S positions of T.
        active: experts that a token passes.

    Returns:
        Scalar: `active` where all are busy alike, and up to E times that.
    Source: Fedus et al. 2021, arXiv:2101.03961 (equations 4 to 6).
    """
    layers = []
    for logits in router_logits:
        experts, seen = logits.shape[-1], len(logits) // len(mask_BT)
        layers.append(load_balancing_loss_func((logits,), experts, active, mask_BT[:, -seen:]))
    return torch.stack(layers).mean()


def chosen(router_logits: Sequence[Tensor], mask_BT: Tensor, active: int) -> Tensor:
    """How many tokens chose each expert, [layers, E]; shapes as in `unevenness`."""
    counts = []
    for logits in router_logits:
        seen = len(logits) // len(mask_BT)
        picks = torch.zeros(logits.shape, device=logits.device).scatter_(1, logits.detach().topk(active).indices, 1.0)
        counts.append((picks * mask_BT[:, -seen:].reshape(-1, 1)).sum(0))
    return torch.stack(counts)
