"""A student that was trained before: any causal model of the library, with an entry of its own for each closed label.

The label tokens stand at the end of the vocabulary, and no merge leads to them, so that a message with a label's word
is read as words and an answer is one token that decodes to the label's own string. Answering in the label's words was
weighed: it takes a pass for each of their tokens, and cannot learn from the teacher's probabilities.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..data.errors import BadInput
from .tokenizer import label_tokens, piece_of, turn_end

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

_PLAIN = (
    "{{ bos_token or '' }}{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}=> {% endif %}"
)
"""What a conversation looks like to a model that was trained on none."""


@dataclass(frozen=True)
class Pretrained:
    """The model that a student begins as, with its tokenizer."""

    model: Any
    """None where a student takes the tokenizer alone."""
    tokenizer: Any
    where: str
    """What a message begins with, such as `students.small.init`."""


def student_tokenizer(source: Pretrained, labels: Sequence[str]) -> PreTrainedTokenizerFast:
    """The model's own tokenizer, with a chat template and an entry for every label.

    Raises:
        BadInput: it has no end token, takes no new entries, or its chat template fails.
    """
    from jinja2 import TemplateError
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    given = source.tokenizer
    if given.eos_token is None:
        raise BadInput(f"{source.where}: the tokenizer has no end token; choose a model that ends its answers")
    learned = json.loads(given.backend_tokenizer.to_str())
    if labels and learned["model"]["type"] != "BPE":
        found = f"a tokenizer of type '{learned['model']['type']}' takes no labels"
        raise BadInput(f"{source.where}: {found}; choose a model with a BPE tokenizer, or init: {{kind: dense}}")
    known = learned["model"]["vocab"]
    for added in learned["added_tokens"] if labels else ():  # entries too, or they would be numbered behind the labels
        known.setdefault(added["content"], added["id"])
    for label in labels:
        known.setdefault(piece_of(given, label), len(known))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(learned)),
        bos_token=given.bos_token,
        eos_token=given.eos_token,
        unk_token=given.unk_token,
        pad_token=given.pad_token or given.eos_token,
        chat_template=given.chat_template or _PLAIN,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    try:
        turn_end(tokenizer)
    except (TemplateError, TypeError, ValueError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(f"{source.where}: its chat template fails: {said}; choose another model") from None
    return tokenizer


def student_model(source: Pretrained, tokenizer: PreTrainedTokenizerFast, labels: Sequence[str]) -> PreTrainedModel:
    """The model's own weights in float32; a label that is new to it begins as the mean of the words of its name."""
    import torch

    model: PreTrainedModel = source.model.float()
    tokens, before = label_tokens(tokenizer, labels), len(source.tokenizer)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tables = {id(table.weight): table.weight for table in (model.get_input_embeddings(), model.get_output_embeddings())}
    with torch.no_grad():
        for label, token in zip(labels, tokens, strict=True):
            words = tokenizer(label.replace("_", " "), add_special_tokens=False)["input_ids"]
            for weight in tables.values() if token >= before else ():
                weight[token] = weight[words].mean(0)
    if labels:
        model.config.label_token_ids = dict(zip(labels, tokens, strict=True))
    model.config.pad_token_id = tokenizer.pad_token_id
    before_us = model.generation_config.eos_token_id
    ends = before_us if isinstance(before_us, list) else [before_us] if before_us is not None else []
    model.generation_config.eos_token_id = sorted({turn_end(tokenizer), *ends})
    return model
