"""What a training step needs in arithmetic, and what the device could do in the same time: the share is MFU.

Source: Chowdhery et al. 2022, arXiv:2204.02311 (model FLOPs utilization).
"""

from __future__ import annotations

from typing import Any

import torch


def operations(model: Any, tokens: float, squares: float, answers: float) -> float:
    """Floating-point operations that learning from some rows needs: 6 a parameter and token, 4 where it is frozen.

    Attention is counted as the model has it, causal or not; of experts those that a token passes; of the vocabulary
    what answers need.

    Args:
        tokens: read, without padding.
        squares: the sum of the squared lengths of the rows.
        answers: positions at which something is to be said.
    """
    config = model.config
    read, said = model.get_input_embeddings(), model.get_output_embeddings()
    tables = [module.weight for module in (read, said) if module is not None]
    active = getattr(config, "num_experts_per_tok", 0) / getattr(config, "num_experts", 1)
    body = sum(
        _passes(weight) * weight.numel() * (active if weight.ndim == 3 else 1)
        for weight in model.parameters()
        if not any(weight is table for table in tables)
    )
    head = 0 if said is None else _passes(said.weight) * said.weight.numel()
    attention = (6 if said is not None else 12) * config.num_hidden_layers * config.hidden_size
    return float(body * tokens + head * answers + attention * squares)


def _passes(weight: torch.Tensor) -> int:
    """Two a multiplication and addition: forward, for the activations' gradient, and for its own."""
    return 6 if weight.requires_grad else 4


def peak(bf16: bool) -> float | None:
    """Operations a second that the GPU could do; None on a CPU, or on a card that TRL does not know."""
    from trl.trainer.utils import get_peak_flops

    if not torch.cuda.is_available():
        return None
    found: float | None = get_peak_flops(torch.cuda.get_device_name(), "bfloat16" if bf16 else "float32")
    return found
