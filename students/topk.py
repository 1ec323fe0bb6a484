"""Distillation from a cached teacher: its K likeliest tokens at each position, and one bucket for all the rest.

The loss is the Kullback-Leibler divergence between teacher and student over K + 1 outcomes. The student's logits are
made for a few positions at a time and turned into gradients at once, so that a large vocabulary never stands in memory
for a whole batch. Dropping the rest instead of keeping a bucket for it was rejected: its optimum is a student that is
too sure by exactly what was dropped.

Shapes: N answer positions, K stored tokens, H hidden width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_LOGITS = 32 * 2**20
"""Logits in memory at once: 128 MiB in float32."""


def topk_loss(hidden_NH: Tensor, weight_VH: Tensor, ids_NK: Tensor, logps_NK: Tensor) -> Tensor:
    """KL divergence, teacher to student, mean over positions.

    Args:
        hidden_NH: what the head is applied to; under autocast in that type.
        weight_VH: the head, without bias.
        ids_NK: stored tokens; one that stands twice at a position counts once, with both probabilities.
        logps_NK: natural log, at temperature 1, not renormalised; -inf fills up a position with fewer tokens. A token
            with 0 alone is a target that is simply right, and the loss there is cross-entropy.

    Returns:
        Scalar in nats, float32. Its gradients are computed on the way and kept: only its sum with other losses, or a
        multiple of it, may be differentiated.
    Source: Hinton et al. 2015, arXiv:1503.02531 (soft targets); the bucket is ours.
    """
    device = hidden_NH.device.type
    if torch.is_autocast_enabled(device):
        hidden_NH = hidden_NH.to(torch.get_autocast_dtype(device))
    loss: Tensor = _TopK.apply(hidden_NH, weight_VH, ids_NK, logps_NK)  # type: ignore[no-untyped-call]
    return loss


class _TopK(torch.autograd.Function):
    """Loss and gradients in one pass over the positions, a chunk at a time."""

    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, ids_NK: Tensor, logps_NK: Tensor) -> Tensor:
        positions = len(hidden_NH)
        head_VH = weight_VH.to(hidden_NH.dtype)
        grad_NH = torch.empty_like(hidden_NH)
        grad_VH = torch.zeros_like(weight_VH) if ctx.needs_input_grad[1] else None
        loss = torch.zeros((), dtype=torch.float32, device=hidden_NH.device)
        chunk = max(1, _LOGITS // len(weight_VH))
        for start in range(0, positions, chunk):
            part = slice(start, start + chunk)
            logits = (hidden_NH[part] @ head_VH.T).float()
            loss += _turn_into_gradient(logits, ids_NK[part], logps_NK[part].float())
            gradient = (logits / positions).to(hidden_NH.dtype)
            grad_NH[part] = gradient @ head_VH
            if grad_VH is not None:
                grad_VH += gradient.T @ hidden_NH[part]
        ctx.save_for_backward(grad_NH, grad_VH)
        return loss / positions

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        grad_NH, grad_VH = ctx.saved_tensors
        scale = grads[0]
        return grad_NH * scale, None if grad_VH is None else grad_VH * scale, None, None


def _turn_into_gradient(logits_CV: Tensor, ids_CK: Tensor, logps_CK: Tensor) -> Tensor:
    """The summed loss of C positions; their logits become its gradient, in place.

    For a stored token it is q - p. For another it is q (1 - p_rest / q_rest): the rest of the student keeps its shape.
    """
    probs_CK = logps_CK.exp()
    probs_CK = probs_CK / probs_CK.sum(-1, keepdim=True).clamp(min=1)  # stored in 16 bits, a sum may pass 1
    rest_C1 = (1 - probs_CK.sum(-1, keepdim=True)).clamp(min=0)
    all_C1 = logits_CV.logsumexp(-1, keepdim=True)
    said_CK = logits_CV.gather(1, ids_CK) - all_C1
    logits_CV.scatter_(1, ids_CK, -torch.inf)
    others_C1 = logits_CV.logsumexp(-1, keepdim=True)  # never 1 minus the sum of the stored ones: that would cancel
    rest_C1 = rest_C1.masked_fill(others_C1 == -torch.inf, 0)
    others_C1 = others_C1.clamp(min=torch.finfo(torch.float32).min)  # the whole vocabulary is stored
    loss = (torch.xlogy(probs_CK, probs_CK) - probs_CK * said_CK).sum()
    loss += (torch.xlogy(rest_C1, rest_C1) - rest_C1 * (others_C1 - all_C1)).sum()
    logits_CV.sub_(others_C1).exp_().mul_((others_C1 - all_C1).exp() - rest_C1)
    logits_CV.scatter_(1, ids_CK, said_CK.exp())
    logits_CV.scatter_add_(1, ids_CK, -probs_CK)
    return loss
