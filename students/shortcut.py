"""The last hidden states of the last few positions, at less work: the last layer is computed for these positions only.

Where the answer is one token, nobody reads what the last layer makes of the others; they only serve as its keys and
values. In a student of two layers that saves a quarter of a step's CPU time in bfloat16 and a third in float32
(measured), and the result is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import Qwen3ForCausalLM, Qwen3MoeForCausalLM
from transformers.masking_utils import create_causal_mask
from transformers.models.qwen3.modeling_qwen3 import apply_rotary_pos_emb


def last_states(
    model: Qwen3ForCausalLM | Qwen3MoeForCausalLM,
    *,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    position_ids: torch.Tensor,
    keep: int,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Equal to ``model.model(...).last_hidden_state[:, -keep:]``; inputs [B, T], result [B, keep, D].

    Returns:
        Also what the routers said, layer by layer, where the model has experts: [B * T, E], and of the last
        layer [B * keep, E].
    """
    body = model.model
    hidden = body.embed_tokens(input_ids)
    cos, sin = body.rotary_emb(hidden, position_ids)
    mask = create_causal_mask(
        config=model.config,
        inputs_embeds=hidden,
        attention_mask=attention_mask,
        past_key_values=None,
        position_ids=position_ids,
    )
    with _routing(body.layers) as said:
        for layer in body.layers[:-1]:
            hidden = layer(hidden, attention_mask=mask, position_ids=position_ids, position_embeddings=(cos, sin))
        last = body.layers[-1]
        normed = last.input_layernorm(hidden)
        attended, _ = last.self_attn(
            normed[:, -keep:],
            position_embeddings=(cos[:, -keep:], sin[:, -keep:]),
            attention_mask=None if mask is None else mask[:, :, -keep:],
            past_key_values=_Earlier(last.self_attn, normed[:, :-keep], cos[:, :-keep], sin[:, :-keep]),
        )
        hidden = hidden[:, -keep:] + attended
        hidden = hidden + last.mlp(last.post_attention_layernorm(hidden))
    return body.norm(hidden), said


@contextmanager
def _routing(layers: Iterable[Any]) -> Iterator[list[torch.Tensor]]:
    """Within, the logits of each router, in the order of the layers; the library gathers them in its own pass only."""
    said: list[torch.Tensor] = []
    routers = [layer.mlp.gate for layer in layers if hasattr(layer.mlp, "gate")]
    hooks = [router.register_forward_hook(lambda _, __, given: said.append(given[0])) for router in routers]
    try:
        yield said
    finally:
        for hook in hooks:
            hook.remove()


class _Earlier:
    """Keys and values of the positions that are only looked back at, in the place of a cache."""

    def __init__(self, attention: Any, normed: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
        shape = (*normed.shape[:-1], -1, attention.head_dim)
        keys = attention.k_norm(attention.k_proj(normed).view(shape)).transpose(1, 2)
        self._keys, _ = apply_rotary_pos_emb(keys, keys, cos, sin)
        self._values = attention.v_proj(normed).view(shape).transpose(1, 2)

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.cat([self._keys, keys], dim=2), torch.cat([self._values, values], dim=2)
