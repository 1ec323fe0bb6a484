"""A layer that averages, for encoders whose authors read sentences by the mean of their tokens.

The library's classes for BERT and its kin read a sentence from its first token, of which such a model made nothing. One
more layer of their own kind puts the mean there: it begins with attention that is even and with values as they are, so
that the folder is read by plain transformers, and learns on from there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_OUTWEIGHS = 8.0
"""How much more the mean counts than what the first token held before; the layer's norm follows."""


@torch.no_grad()
def average(model: Any) -> None:
    """Make the last layer of a model of BERT's kin one after which the first token is the mean of all.

    What reads that token hands it on.
    """
    layer = model.base_model.encoder.layer[-1]
    for module in layer.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
    attention = layer.attention
    nn.init.zeros_(attention.self.query.weight)  # keys that nobody asks for are all as good
    nn.init.eye_(attention.self.value.weight)
    nn.init.eye_(attention.output.dense.weight).mul_(_OUTWEIGHS)
    nn.init.zeros_(layer.output.dense.weight)
    for name, module in model.named_modules():
        if name.endswith(("pooler.dense", "classifier.dense")):
            nn.init.eye_(module.weight).mul_(0.5)  # of what is normalised the hyperbolic tangent is still near a line
            nn.init.zeros_(module.bias)
