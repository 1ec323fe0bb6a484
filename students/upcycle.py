"""A student with experts out of a dense Qwen3 model, which begins by saying what the dense one says.

Every expert begins as the whole feed-forward of its layer, and what a token's experts say is weighed to a sum of 1: the
router, which begins at random, changes nothing yet. Neurons that are drawn anew have the experts differ from the start,
and cost what they knew.
Sources: Komatsuzaki et al. 2022, arXiv:2212.05055; Nakamura et al. 2025, arXiv:2502.19261 (drawn anew).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ..data.errors import BadInput
from .build import EVENNESS
from .config import Upcycle

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Qwen3MoeForCausalLM

_DENSE_ALONE = ("model_type", "architectures", "layer_types", "max_window_layers")
"""What a dense configuration says and one with experts does not."""


def upcycled(dense: PreTrainedModel, init: Upcycle, seed: int, where: str) -> Qwen3MoeForCausalLM:
    """The dense model with experts.

    Args:
        where: what a refusal begins with.

    Raises:
        BadInput: it is no Qwen3 model, or does not look back all the way.
    """
    torch.manual_seed(seed)
    model = _with_experts(dense, init, where)
    model.load_state_dict(dense.state_dict(), strict=False)
    model.generation_config = dense.generation_config
    with torch.no_grad():
        for layer, whole in zip(model.model.layers, dense.model.layers, strict=True):
            experts, given = layer.mlp.experts, whole.mlp
            experts.gate_up_proj.copy_(torch.cat([given.gate_proj.weight, given.up_proj.weight]))  # to each expert
            experts.down_proj.copy_(given.down_proj.weight)
            if init.redraw:
                _draw_anew(experts, init.redraw)
    return model


def upcycled_shape(dense: PreTrainedModel, init: Upcycle, where: str) -> Qwen3MoeForCausalLM:
    """The dense model with experts and without weights: nothing is allocated.

    Raises:
        BadInput: as `upcycled`.
    """
    with torch.device("meta"):
        return _with_experts(dense, init, where)


def _with_experts(dense: PreTrainedModel, init: Upcycle, where: str) -> Qwen3MoeForCausalLM:
    """A model of the dense one's shape with experts, its weights still at random."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = dense.config
    if config.model_type != "qwen3":
        raise BadInput(
            f"{where}: is a '{config.model_type}' model, and experts are made from Qwen3 models; begin with one, or "
            "use init: {kind: hub}"
        )
    if "sliding_attention" in config.layer_types:
        raise BadInput(
            f"{where}: some of its layers look back a window only, which no layer with experts does; use init: "
            "{kind: hub}"
        )
    given = {name: value for name, value in config.to_dict().items() if name not in _DENSE_ALONE}
    made = Qwen3MoeConfig(
        **given,
        moe_intermediate_size=config.intermediate_size,
        num_experts=init.experts,
        num_experts_per_tok=init.active,
        norm_topk_prob=True,
        router_aux_loss_coef=EVENNESS,
    )
    return Qwen3MoeForCausalLM(made)


def _draw_anew(experts: Any, share: float) -> None:
    """Draw this share of each expert's neurons from a normal distribution of the mean and deviation they have."""
    neurons = experts.intermediate_dim
    for gate_up, down in zip(experts.gate_up_proj, experts.down_proj, strict=True):
        drawn = torch.randperm(neurons)[: max(1, round(share * neurons))]
        for part in (gate_up[:neurons], gate_up[neurons:], down.T):
            known = part[drawn]
            part[drawn] = torch.normal(known.mean().item(), known.std().item(), known.shape)
