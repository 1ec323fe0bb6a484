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
        multiple of it, may be differentiated, and once.
    Source: Hinton et al. 2015, arXiv:1503.02531 (soft targets); the bucket is ours.
    """
    return watched_loss(hidden_NH, weight_VH, ids_NK, logps_NK, ids_NK.new_zeros(()))[0]


def watched_loss(
    hidden_NH: Tensor, weight_VH: Tensor, ids_NK: Tensor, logps_NK: Tensor, end: Tensor
) -> tuple[Tensor, Tensor]:
    """As `topk_loss`, with what else the logits say while they are there.

    Args:
        end: the token that ends an answer, a scalar.

    Returns:
        Also [N, 3] without gradients: 1 where no token is likelier to the student than the teacher's likeliest, the
        student's probability of the end, and what the teacher's stored tokens leave out.
    """
    device = hidden_NH.device.type
    if torch.is_autocast_enabled(device):
        hidden_NH = hidden_NH.to(torch.get_autocast_dtype(device))
    with torch.autocast(device, enabled=False):  # it would widen the softmax to 32 bits
        loss, seen_N3 = _TopK.apply(hidden_NH, weight_VH, ids_NK, logps_NK, end)  # type: ignore[no-untyped-call]
    return loss, seen_N3


class _TopK(torch.autograd.Function):
    """Loss and gradients in one pass over the positions, a chunk at a time."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, ids_NK: Tensor, logps_NK: Tensor, end: Tensor
    ) -> tuple[Tensor, Tensor]:
        head_VH = weight_VH.to(hidden_NH.dtype)
        grad_NH = torch.empty_like(hidden_NH)
        grad_VH = torch.zeros_like(weight_VH) if ctx.needs_input_grad[1] else None
        loss = torch.zeros((), dtype=torch.float32, device=hidden_NH.device)
        seen_N3 = torch.empty(len(hidden_NH), 3, device=hidden_NH.device)
        chunk = _chunk(weight_VH)
        for start in range(0, len(hidden_NH), chunk):
            part = slice(start, start + chunk)
            logits = hidden_NH[part] @ head_VH.T
            lost, seen_N3[part] = _turn_into_gradient(logits, ids_NK[part], logps_NK[part].float(), end)
            loss += lost
            torch.mm(logits, head_VH, out=grad_NH[part])
            if grad_VH is not None:
                _add_product(grad_VH, logits.T, hidden_NH[part])
        ctx.save_for_backward(grad_NH, grad_VH)
        ctx.mark_non_differentiable(seen_N3)
        return loss / len(hidden_NH), seen_N3

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        grad_NH, grad_VH = ctx.saved_tensors
        scale = grads[0] / len(grad_NH)
        return grad_NH.mul_(scale), None if grad_VH is None else grad_VH.mul_(scale), None, None, None


def _chunk(weight_VH: Tensor) -> int:
    """Positions at a time, for as many logits as suit the device.

    Few on a CPU, where the system clears a large block of memory each time; many on a GPU, where each chunk reads and
    writes the head's whole gradient.
    """
    logits = 2**27 if weight_VH.is_cuda else 2**22
    return max(256, logits // len(weight_VH))


def _add_product(sum_VH: Tensor, left_VC: Tensor, right_CH: Tensor) -> None:
    """Add a product to the sum, in the sum's precision where the device can."""
    if sum_VH.dtype == left_VC.dtype:
        sum_VH.addmm_(left_VC, right_CH)
    elif sum_VH.is_cuda:
        torch.addmm(sum_VH, left_VC, right_CH, out_dtype=sum_VH.dtype, out=sum_VH)
    else:
        sum_VH += left_VC @ right_CH


def _turn_into_gradient(logits_CV: Tensor, ids_CK: Tensor, logps_CK: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """The summed loss of C positions, and what is seen of them [C, 3]; their logits become its gradient, in place.

    For a stored token it is q - p. For another it is q (1 - p_rest / q_rest): the rest of the student keeps its shape.
    """
    first_CK, probs_CK, rest_C1 = _told(ids_CK, logps_CK)
    exact = torch.promote_types(logits_CV.dtype, torch.float32)
    rows_C1 = torch.arange(len(ids_CK), device=ids_CK.device)[:, None]
    nothing = torch.finfo(logits_CV.dtype).min
    said_CK = logits_CV.gather(1, ids_CK).to(exact)
    end_C1 = logits_CV.index_select(1, end[None]).to(exact)
    best_C1 = said_CK.gather(1, logps_CK.argmax(-1, keepdim=True))
    logits_CV[rows_C1, ids_CK] = nothing  # scatter_ would copy a chunk of 16 bits
    shares_CV = logits_CV.softmax(-1)  # among the rest
    highest_C1 = logits_CV.amax(-1, keepdim=True).to(exact)
    rest_C1 = rest_C1.masked_fill(highest_C1 == nothing, 0)  # the whole vocabulary is stored
    # Never 1 minus the sum of the stored ones: that would cancel.
    others_C1 = highest_C1 - shares_CV.amax(-1, keepdim=True).to(exact).log()
    all_C1 = said_CK.where(first_CK, -torch.inf).logsumexp(-1, keepdim=True).logaddexp(others_C1)
    agreed_C1 = best_C1 >= torch.maximum(said_CK.amax(-1, keepdim=True), highest_C1)
    seen_C3 = torch.cat([agreed_C1, (end_C1 - all_C1).exp(), rest_C1], 1)
    said_CK, others_C1 = said_CK - all_C1, others_C1 - all_C1
    loss = ((torch.xlogy(probs_CK, probs_CK) - probs_CK * said_CK) * first_CK).sum()
    loss += (torch.xlogy(rest_C1, rest_C1) - rest_C1 * others_C1).sum()
    torch.mul(shares_CV, others_C1.exp() - rest_C1, out=logits_CV)
    logits_CV[rows_C1, ids_CK] = (said_CK.exp() - probs_CK).to(logits_CV.dtype)
    return loss, seen_C3


def _told(ids_CK: Tensor, logps_CK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the teacher said: where a token stands for the first time, its probability in all, and that of the rest."""
    same_CKK = ids_CK[:, :, None] == ids_CK[:, None, :]
    first_CK = ~same_CKK.tril(-1).any(-1)
    probs_CK = (same_CKK * logps_CK.exp()[:, None]).sum(-1)
    sum_C1 = (probs_CK * first_CK).sum(-1, keepdim=True)
    return first_CK, probs_CK / sum_C1.clamp(min=1), (1 - sum_C1).clamp(min=0)  # stored in 16 bits, a sum may pass 1
