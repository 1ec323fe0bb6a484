"""A student from scratch: which shape a parameter count buys, and the model with its first weights.

Qwen3 architecture with tied embeddings and heads of 32 or 64, because transformers, vLLM and GGUF all run it as it is.
Few layers: on closed labels with some thousand rows, width was worth more than depth at equal cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..data.errors import BadInput
from .config import Dense, Layers, count
from .tokenizer import label_tokens, turn_end

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

POSITIONS = 2048


@dataclass(frozen=True, slots=True)
class Shape:
    """Width, depth and heads of a decoder."""

    hidden: int
    layers: int
    head: int
    times: int = 2
    """Neurons of a layer, in widths."""

    @property
    def intermediate(self) -> int:
        return self.times * self.hidden

    @property
    def heads(self) -> int:
        return self.hidden // self.head

    def parameters(self, vocabulary: int) -> int:
        """All weights, the tied embedding once."""
        attention = 4 * self.hidden * self.heads * self.head + 2 * self.head
        feed_forward = 3 * self.hidden * self.intermediate
        return vocabulary * self.hidden + self.layers * (attention + feed_forward + 2 * self.hidden) + self.hidden


def vocabulary_for(init: Dense | Layers) -> int:
    """Tokens worth having at a size, where the recipe does not say."""
    if init.vocabulary is not None:
        return init.vocabulary
    size = count(init.parameters)
    steps = ((700_000, 1024), (1_200_000, 2048), (4_000_000, 3072), (20_000_000, 8192))
    return next((tokens for most, tokens in steps if size <= most), 16384)


def shape_for(parameters: int, vocabulary: int, layers: int | None = None, times: int = 2) -> Shape:
    """The widest shape of this depth, by default the one that suits the size, within the count.

    Args:
        times: neurons of a layer, in widths.

    Raises:
        BadInput: the vocabulary alone takes it up.
    """
    steps = ((3_000_000, 2), (8_000_000, 4), (30_000_000, 6), (60_000_000, 8))
    deepest = layers or next((deep for most, deep in steps if parameters <= most), 12)
    for depth in range(deepest, layers - 1 if layers else 0, -1):
        fitting = [
            shape
            for hidden in range(64, 2048, 32)
            if (shape := Shape(hidden, depth, _head(hidden), times)).parameters(vocabulary) <= parameters
        ]
        if fitting:
            return fitting[-1]
    raise BadInput(
        f"init.parameters = {parameters:,} cannot hold a vocabulary of {vocabulary:,} tokens"
        f"{f' and {layers} layers' if layers else ''}; raise init.parameters, or lower init.vocabulary"
    )


def _head(hidden: int) -> int:
    """Width of a head; below 256, wide ones would be too few."""
    return 64 if hidden % 64 == 0 and hidden >= 256 else 32


def build_dense(dense: Dense, tokenizer: PreTrainedTokenizerFast, labels: Sequence[str], seed: int) -> Qwen3ForCausalLM:
    """The model with random weights; a label's embedding starts as the mean of the words of its name.

    The label tokens stand in the configuration as `label_token_ids`, so that whoever loads the folder can ask for one
    forward pass and a softmax over them.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    shape = shape_for(count(dense.parameters), len(tokenizer), dense.layers, dense.intermediate)
    end = turn_end(tokenizer)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        head_dim=shape.head,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=end,
        bos_token_id=None,
        dtype=torch.float32,
    )
    tokens = label_tokens(tokenizer, labels)
    if labels:
        config.label_token_ids = dict(zip(labels, tokens, strict=True))
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(config)
    embedding = model.get_input_embeddings().weight
    with torch.no_grad():
        for label, token in zip(labels, tokens, strict=True):
            words = tokenizer(label.replace("_", " "), add_special_tokens=False)["input_ids"]
            embedding[token] = embedding[words].mean(0) * len(words) ** 0.5
    return model
