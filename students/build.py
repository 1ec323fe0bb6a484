"""A student from scratch: which shape a parameter count buys, and the model with its first weights.

Qwen3 architecture, or Qwen3-MoE, with tied embeddings and heads of 32 or 64, because transformers, vLLM and GGUF all
run it as it is. Few layers: on closed labels with some thousand rows, width was worth more than depth at equal cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..data.errors import BadInput
from .config import Dense, Encoder, Layers, Moe, Twin, count
from .tokenizer import label_tokens, turn_end

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM, Qwen3MoeForCausalLM

POSITIONS = 2048

EVENNESS = 0.01
"""Weight of the loss that keeps experts busy alike."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Width, depth and heads of a decoder, and how many experts its layers have."""

    hidden: int
    layers: int
    head: int
    intermediate: int
    """Neurons of a layer, or of each of its experts."""
    experts: int = 1
    active: int = 1

    @property
    def heads(self) -> int:
        return self.hidden // self.head

    def parameters(self, vocabulary: int) -> int:
        """All weights, the tied embedding once."""
        attention = 4 * self.hidden * self.heads * self.head + 2 * self.head
        router = self.hidden * self.experts if self.experts > 1 else 0
        feed_forward = 3 * self.hidden * self.intermediate * self.experts + router
        return vocabulary * self.hidden + self.layers * (attention + feed_forward + 2 * self.hidden) + self.hidden

    def dense(self) -> Shape:
        """The same without experts and with as many parameters as a token passes, to half a neuron of each layer.

        A neuron has three weights for each of the width, a router has one for each expert.
        """
        neurons = self.active * self.intermediate + round(self.experts / 3)
        return replace(self, intermediate=neurons, experts=1, active=1)


def vocabulary_for(init: Dense | Layers | Encoder) -> int:
    """Tokens worth having at a size, where the recipe does not say."""
    if init.vocabulary is not None:
        return init.vocabulary
    assert init.parameters is not None, "what is built or cut has a size"
    size = count(init.parameters)
    if isinstance(init, Moe):
        size = _passed(size, init.intermediate, init.experts, init.active)
    steps = ((700_000, 1024), (1_200_000, 2048), (4_000_000, 3072), (20_000_000, 8192))
    return next((tokens for most, tokens in steps if size <= most), 16384)


def shape_of(init: Dense, vocabulary: int) -> Shape:
    """What a recipe's parameters buy with so many tokens.

    Raises:
        BadInput: the vocabulary alone takes them up.
    """
    size = count(init.parameters)
    if not isinstance(init, Moe):
        return shape_for(size, vocabulary, init.layers, init.intermediate)
    shape = shape_for(size, vocabulary, init.layers, init.intermediate, init.experts, init.active)
    return shape.dense() if isinstance(init, Twin) else shape


def shape_for(
    parameters: int,
    vocabulary: int,
    layers: int | None = None,
    times: int = 2,
    experts: int = 1,
    active: int = 1,
    kind: type[Shape] = Shape,
) -> Shape:
    """The widest shape of this depth, by default the one that suits the size, within the count.

    Args:
        times: neurons that a token passes in a layer, in widths.
        kind: reckons the weights.

    Raises:
        BadInput: the vocabulary alone takes it up.
    """
    size = _passed(parameters, times, experts, active)
    steps = ((3_000_000, 2), (8_000_000, 4), (30_000_000, 6), (60_000_000, 8))
    deepest = layers or next((deep for most, deep in steps if size <= most), 12)
    for depth in range(deepest, layers - 1 if layers else 0, -1):
        shapes = (
            kind(hidden, depth, _head(hidden), _shared(times * hidden, active), experts, active)
            for hidden in range(64, 2048, 32)
        )
        fitting = [shape for shape in shapes if shape.parameters(vocabulary) <= parameters]
        if fitting:
            return fitting[-1]
    wanted = [f"a vocabulary of {vocabulary:,} tokens", *[f"{layers} layers"] * bool(layers)]
    wanted += [f"{experts} experts"] * (experts > 1)
    raise BadInput(
        f"init.parameters = {parameters:,} cannot hold {' and '.join(wanted)}; raise init.parameters, or lower "
        f"init.vocabulary{' or init.experts' if experts > 1 else ''}"
    )


def _passed(parameters: int, times: int, experts: int, active: int) -> int:
    """Parameters that a token passes, about: to them depth and vocabulary are suited."""
    attention, neurons = 4, 3 * times
    return round(parameters * (attention + neurons) / (attention + neurons * experts / active))


def _head(hidden: int) -> int:
    """Width of a head; below 256, wide ones would be too few."""
    return 64 if hidden % 64 == 0 and hidden >= 256 else 32


def _shared(neurons: int, active: int) -> int:
    """Neurons of one expert, a multiple of what matrix libraries read at once."""
    return 8 * max(1, round(neurons / active / 8))


def build_dense(dense: Dense, tokenizer: PreTrainedTokenizerFast, labels: Sequence[str], seed: int) -> Qwen3ForCausalLM:
    """The model with random weights; a label's embedding starts as the mean of the words of its name.

    The label tokens stand in the configuration as `label_token_ids`, so that whoever loads the folder can ask for one
    forward pass and a softmax over them.
    """
    from transformers import Qwen3Config, Qwen3ForCausalLM

    shape = shape_of(dense, len(tokenizer))
    config = Qwen3Config(**_settings(shape, tokenizer), intermediate_size=shape.intermediate)
    return _begun(Qwen3ForCausalLM, config, tokenizer, labels, seed)


def build_moe(moe: Moe, tokenizer: PreTrainedTokenizerFast, labels: Sequence[str], seed: int) -> Qwen3MoeForCausalLM:
    """The same with experts."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    shape = shape_of(moe, len(tokenizer))
    config = Qwen3MoeConfig(
        **_settings(shape, tokenizer),
        intermediate_size=shape.active * shape.intermediate,
        moe_intermediate_size=shape.intermediate,
        num_experts=shape.experts,
        num_experts_per_tok=shape.active,
        norm_topk_prob=True,
        router_aux_loss_coef=EVENNESS,
    )
    return _begun(Qwen3MoeForCausalLM, config, tokenizer, labels, seed)


def _settings(shape: Shape, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """What both architectures are told."""
    import torch

    return {
        "vocab_size": len(tokenizer),
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "head_dim": shape.head,
        "max_position_embeddings": POSITIONS,
        "tie_word_embeddings": True,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": turn_end(tokenizer),
        "bos_token_id": None,
        "dtype": torch.float32,
    }


def _begun(kind: Any, config: Any, tokenizer: PreTrainedTokenizerFast, labels: Sequence[str], seed: int) -> Any:
    import torch

    tokens = label_tokens(tokenizer, labels)
    if labels:
        config.label_token_ids = dict(zip(labels, tokens, strict=True))
    torch.manual_seed(seed)
    model = kind(config)
    embedding = model.get_input_embeddings().weight
    name_labels(embedding, tokens, embedding, tokenizer, labels)
    return model


def name_labels(
    rows: Tensor, places: Sequence[int], embedding: Tensor, tokenizer: PreTrainedTokenizerFast, labels: Sequence[str]
) -> None:
    """Have what stands for a label begin as the mean of the words of its name, as long as one of them."""
    import torch

    with torch.no_grad():
        for label, place in zip(labels, places, strict=True):
            words = tokenizer(label.replace("_", " "), add_special_tokens=False)["input_ids"]
            rows[place] = embedding[words].mean(0) * len(words) ** 0.5
