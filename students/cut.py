"""A student cut out of a larger model: the layers, heads, neurons and tokens that matter most on the run's rows.

What a large model learnt about words sits mostly in its embeddings, and they are kept at full width: with 5,000 rows a
student cut from the embedded teacher was 5 points better on new wording than one from scratch with twice the rows.
Sources: Muralidharan et al. 2024, arXiv:2407.14679 (heads and neurons by activation); Sun et al. 2023, arXiv:2306.11695
(activation times weight); Men et al. 2024, arXiv:2403.03853 (layers by how much they change what passes through).
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..data.errors import BadInput
from .batches import render
from .config import Layers, count
from .tokenizer import (
    ASSISTANT,
    END,
    MARKS,
    PAD,
    SYSTEM,
    USER,
    answer_mark,
    as_bytes,
    as_pretrained,
    label_tokens,
    merge_parents,
    question_mark,
    turn_end,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

MEASURED = 256
"""Rows on which importance is measured."""

_TOGETHER = 64  # rows in one pass
_NARROWEST = 32  # neurons of a layer


@dataclass(frozen=True)
class Larger:
    """The model that a student is cut from, with its tokenizer.

    Raises:
        BadInput: its parts cannot be cut here.
    """

    model: Any
    tokenizer: Any
    where: str
    """What a message begins with, such as `teacher lead`."""
    asked: Callable[[str], list[dict[str, Any]]]
    """The messages with which it is asked about an input."""

    def __post_init__(self) -> None:
        kind = self.model.config.model_type
        if kind != "qwen3":
            found = f"is a '{kind}' model, and layers are cut from Qwen3 models"
            raise BadInput(f"{self.where}: {found}; use init: {{kind: dense}}")
        learned = json.loads(self.tokenizer.backend_tokenizer.to_str())
        if learned["model"]["type"] != "BPE" or not _by_bytes(learned["decoder"]):
            found = "its tokenizer is no byte-level BPE, which tokens are cut from"
            raise BadInput(f"{self.where}: {found}; use init: {{kind: dense}}")

    def states(self, texts: Sequence[str]) -> list[list[float]]:
        """What the model makes of each input where its answer would begin: its last hidden state."""
        prompts = self.tokenizer.apply_chat_template(
            [self.asked(text) for text in texts], add_generation_prompt=True, tokenize=False
        )
        order = sorted(range(len(texts)), key=lambda i: len(prompts[i]))
        found: dict[int, list[float]] = {}
        for start in range(0, len(order), _TOGETHER):
            some = order[start : start + _TOGETHER]
            batch = _padded(self.tokenizer, [prompts[i] for i in some], self.model.device)
            with torch.inference_mode():
                states_BD = self.model.model(**batch, use_cache=False).last_hidden_state[:, -1]
            found.update(zip(some, states_BD.float().tolist(), strict=True))
        return [found[i] for i in range(len(texts))]


def _by_bytes(decoder: dict[str, Any] | None) -> bool:
    parts = decoder["decoders"] if decoder and decoder["type"] == "Sequence" else [decoder]
    return any(part and part["type"] == "ByteLevel" for part in parts)


def _padded(tokenizer: Any, prompts: Sequence[str], device: torch.device) -> dict[str, Tensor]:
    """Rendered prompts side by side, padded on the left: input_ids, attention_mask, position_ids [B, T]."""
    tokens = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    mask_BT = tokens["attention_mask"].to(device)
    positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
    return {"input_ids": tokens["input_ids"].to(device), "attention_mask": mask_BT, "position_ids": positions_BT}


def cut_tokenizer(
    larger: Larger, texts: Iterable[str], vocabulary: int, labels: Sequence[str], *, fold_case: bool
) -> PreTrainedTokenizerFast:
    """The tokens that the texts use most, with the merges that lead to them; the labels come last.

    Turn marks are ours: what marks turns for the larger model is left out where it is another.

    Args:
        vocabulary: entries at most, the labels not counted; never below the bytes and the turn marks.
    """
    from tokenizers import Tokenizer

    learned = json.loads(larger.tokenizer.backend_tokenizer.to_str())
    if fold_case:
        before = learned["normalizer"]
        steps = before["normalizers"] if before and before["type"] == "Sequence" else [before] if before else []
        learned["normalizer"] = {"type": "Sequence", "normalizers": [*steps, {"type": "Lowercase"}]}
    whole = Tokenizer.from_str(json.dumps(learned))
    used: Counter[int] = Counter()
    source = iter(texts)
    while some := list(islice(source, 1024)):
        for encoding in whole.encode_batch(some, add_special_tokens=False):
            used.update(encoding.ids)
    names = {token: name for name, token in learned["model"]["vocab"].items()}
    parents = merge_parents(larger.tokenizer)

    def ancestry(token: int) -> set[int]:
        return {token}.union(*(ancestry(parent) for parent in parents[token] or ()))

    kept = {token for token, name in names.items() if len(name) == 1 or name in MARKS}
    new_marks = [mark for mark in MARKS if mark not in learned["model"]["vocab"]]
    for token, _ in used.most_common():
        new = ancestry(token) - kept if token in names else set()
        if len(new_marks) + len(kept) + len(new) <= vocabulary:
            kept |= new
    entries = {name: number for number, name in enumerate([*new_marks, *(names[token] for token in sorted(kept))])}
    learned["model"]["vocab"] = entries
    learned["model"]["merges"] = [
        [left, right] for left, right in learned["model"]["merges"] if {left, right, left + right} <= entries.keys()
    ]
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    learned["added_tokens"] = [{"id": entries[mark], "content": mark, **plain, "special": True} for mark in MARKS]
    learned["post_processor"] = None
    return as_pretrained(learned, labels)


def cut_model(
    larger: Larger, tokenizer: PreTrainedTokenizerFast, init: Layers, labels: Sequence[str], texts: Sequence[str]
) -> Qwen3ForCausalLM:
    """The larger model's weights, those that stay.

    Args:
        texts: inputs on which importance is measured.
    """
    from transformers import Qwen3ForCausalLM

    whole = larger.model
    width = fitting(whole.config, init, len(tokenizer))
    measured = importance(whole, larger.tokenizer, texts)
    kept = sorted(sorted(range(len(measured)), key=lambda number: -measured[number].change)[: init.layers])
    config = copy.deepcopy(whole.config)
    share = config.num_attention_heads // config.num_key_value_heads
    config.num_hidden_layers, config.layer_types = len(kept), [config.layer_types[number] for number in kept]
    config.num_key_value_heads, config.num_attention_heads = width.groups, width.groups * share
    config.intermediate_size, config.vocab_size = width.neurons, len(tokenizer)
    config.pad_token_id = tokenizer.convert_tokens_to_ids(PAD)
    config.eos_token_id = tokenizer.convert_tokens_to_ids(END)
    config.bos_token_id = None
    config.label_token_ids = dict(zip(labels, label_tokens(tokenizer, labels), strict=True))
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        _copy_embeddings(model, tokenizer, larger, labels)
        model.model.norm.weight.copy_(whole.model.norm.weight)
        for layer, number in zip(model.model.layers, kept, strict=True):
            _copy_layer(layer, whole.model.layers[number], measured[number], width, config.head_dim, share)
    return model


@dataclass(frozen=True, slots=True)
class Width:
    """What is left of a layer."""

    groups: int
    """Groups of heads that share keys."""
    neurons: int


def fitting(config: Any, init: Layers, vocabulary: int) -> Width:
    """How wide each layer may be within the parameter count: as many heads as leave a neuron for each of the width.

    Raises:
        BadInput: fewer layers than asked for, or no room for them.
    """
    hidden, head = config.hidden_size, config.head_dim
    tables = 1 if config.tie_word_embeddings else 2
    if init.layers > config.num_hidden_layers:
        raise BadInput(f"init.layers = {init.layers}, but {init.teacher} has {config.num_hidden_layers}; ask for fewer")
    per_group = 2 * hidden * head * (1 + config.num_attention_heads // config.num_key_value_heads)
    room = (count(init.parameters) - (tables * vocabulary + 1) * hidden) // init.layers - 2 * hidden - 2 * head
    for groups in range(config.num_key_value_heads, 0, -1):
        neurons = min(config.intermediate_size, (room - groups * per_group) // (3 * hidden))
        if neurons >= (hidden if groups > 1 else _NARROWEST):
            return Width(groups, neurons)
    raise BadInput(
        f"init.parameters = {init.parameters} cannot hold {vocabulary:,} tokens and {init.layers} layers that are "
        f"{hidden} wide, as {init.teacher} is; raise init.parameters, or lower init.vocabulary or init.layers"
    )


@dataclass(frozen=True, slots=True)
class Importance:
    """How much of what a layer does each part of it does; shapes: G groups of heads, F neurons."""

    groups_G: Tensor
    neurons_F: Tensor
    change: float
    """One minus the cosine between what enters the layer and what leaves it."""


def importance(model: Qwen3ForCausalLM, tokenizer: Any, texts: Sequence[str]) -> list[Importance]:
    """Of every layer, over all tokens of the texts: the root mean square of what each part adds."""
    layers = list(model.model.layers)
    squares = {end: torch.zeros(end.in_features, device=model.device) for layer in layers for end in _ends(layer)}
    change = dict.fromkeys(layers, 0.0)
    tokens = 0
    real_BT = torch.empty(0)

    def what_enters(module: nn.Linear, given: tuple[Tensor]) -> None:
        squares[module] += given[0][real_BT].float().square().sum(0)

    def what_changes(layer: nn.Module, given: tuple[Tensor], left: Tensor) -> None:
        same = nn.functional.cosine_similarity(given[0][real_BT], left[real_BT], dim=-1)
        change[layer] += float((1 - same).sum())

    hooks = [module.register_forward_pre_hook(what_enters) for module in squares]
    hooks += [layer.register_forward_hook(what_changes) for layer in layers]
    try:
        for start in range(0, len(texts), _TOGETHER):
            batch = _padded(tokenizer, render(tokenizer, texts[start : start + _TOGETHER]), model.device)
            real_BT = batch["attention_mask"].bool()
            tokens += int(real_BT.sum())
            with torch.inference_mode():
                model.model(**batch, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    groups = model.config.num_key_value_heads
    found = []
    for layer in layers:
        heads, neurons = ((squares[end] / tokens).sqrt() * end.weight.norm(dim=0) for end in _ends(layer))
        found.append(Importance(heads.view(groups, -1).norm(dim=1), neurons, change[layer] / tokens))
    return found


def _ends(layer: Any) -> tuple[nn.Linear, nn.Linear]:
    """The two matrices through which a layer adds to what passes: after its heads, and after its neurons."""
    return layer.self_attn.o_proj, layer.mlp.down_proj


def _copy_embeddings(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, larger: Larger, labels: Sequence[str]
) -> None:
    """A token's vectors by its name; one that the larger model has no token for is the mean of what it says instead."""
    known, instead = larger.tokenizer.get_vocab(), _said_instead(larger, labels)
    tables = [(model.model.embed_tokens, larger.model.get_input_embeddings())]
    if not model.config.tie_word_embeddings:
        tables.append((model.lm_head, larger.model.get_output_embeddings()))
    for table, theirs in tables:
        for name, token in tokenizer.get_vocab().items():
            table.weight[token] = theirs.weight[known[name]] if name in known else theirs.weight[instead[name]].mean(0)


def _said_instead(larger: Larger, labels: Sequence[str]) -> dict[str, list[int]]:
    """Tokens of the larger model that stand for our turn marks, and for labels: the words of their names."""
    theirs = larger.tokenizer
    end = [turn_end(theirs)]
    opening = question_mark(theirs) or end
    marks = {PAD: end, END: end, SYSTEM: opening, USER: opening, ASSISTANT: answer_mark(theirs) or end}
    words = (
        theirs([label.replace("_", " ") for label in labels], add_special_tokens=False)["input_ids"] if labels else []
    )
    return {**marks, **dict(zip(map(as_bytes, labels), words, strict=True))}


def _copy_layer(layer: Any, whole: Any, measured: Importance, width: Width, head: int, share: int) -> None:
    groups = measured.groups_G.topk(width.groups).indices.sort().values.tolist()
    neurons = measured.neurons_F.topk(width.neurons).indices.sort().values
    keys = torch.cat([torch.arange(group * head, (group + 1) * head) for group in groups])
    queries = torch.cat([torch.arange(group * share * head, (group + 1) * share * head) for group in groups])
    rows = {"q_proj": queries, "k_proj": keys, "v_proj": keys, "gate_proj": neurons, "up_proj": neurons}
    columns = {"o_proj": queries, "down_proj": neurons}
    theirs = dict(whole.named_parameters())
    for name, weight in layer.named_parameters():
        part = name.split(".")[-2]
        value = theirs[name]
        if part in rows:
            value = value[rows[part]]
        elif part in columns and value.ndim == 2:
            value = value[:, columns[part]]
        weight.copy_(value)
