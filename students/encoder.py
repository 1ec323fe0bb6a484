"""A student that only reads: a bidirectional encoder with a head for closed labels, in the library's own classes.

From scratch it is a ModernBERT with full attention in all of its few layers and the mean of the states before the head.
The tokenizer puts its own marks around a message, so that the folder answers in the library's `text-classification`
pipeline as it is, and a label is a name in its configuration instead of a token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..data.errors import BadInput
from .build import POSITIONS, Shape, name_labels, shape_for
from .config import Encoder, count
from .tokenizer import PAD, learn_merges

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import ModernBertForSequenceClassification, PreTrainedTokenizerFast

    from .hub import Pretrained

CLS, SEP = "<|cls|>", "<|sep|>"


@dataclass(frozen=True, slots=True)
class EncoderShape(Shape):
    """Width, depth and heads of an encoder."""

    def parameters(self, vocabulary: int) -> int:
        """All weights, those of the head but for the labels' rows, which count as tokens."""
        layer = 4 * self.hidden**2 + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return vocabulary * self.hidden + self.layers * layer + self.hidden**2 + 2 * self.hidden


def build_encoder(
    init: Encoder, tokenizer: PreTrainedTokenizerFast, labels: Sequence[str], seed: int
) -> ModernBertForSequenceClassification:
    """The model with random weights; a label begins as the mean of the words of its name, as in `build_dense`."""
    import torch
    from transformers import ModernBertConfig, ModernBertForSequenceClassification

    assert init.parameters is not None, "an encoder from scratch has a size"
    shape = shape_for(count(init.parameters), len(tokenizer) + len(labels), init.layers, kind=EncoderShape)
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=POSITIONS,
        layer_types=["full_attention"] * shape.layers,
        classifier_pooling="mean",
        pad_token_id=tokenizer.pad_token_id,
        cls_token_id=tokenizer.cls_token_id,
        sep_token_id=tokenizer.sep_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
        problem_type="single_label_classification",
        dtype=torch.float32,
    )
    torch.manual_seed(seed)
    model = ModernBertForSequenceClassification(config)
    head, embedding = model.classifier.weight, model.get_input_embeddings().weight
    name_labels(head, range(len(labels)), embedding, tokenizer, labels)
    return model


def learn_reader(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer of the texts' words that puts its marks around what it reads; upper and lower case are alike."""
    from tokenizers.processors import TemplateProcessing

    learned = learn_merges(texts, vocabulary, (PAD, CLS, SEP), fold_case=True)
    marks = [(mark, learned.token_to_id(mark)) for mark in (CLS, SEP)]
    learned.post_processor = TemplateProcessing(single=f"{CLS} $A {SEP}", special_tokens=marks)
    return _reader(learned, POSITIONS, pad_token=PAD, cls_token=CLS, sep_token=SEP)


def own_reader(source: Pretrained) -> PreTrainedTokenizerFast:
    """The tokenizer of a model that was trained before.

    Raises:
        BadInput: it has no padding token.
    """
    from tokenizers import Tokenizer

    given = source.tokenizer
    if given.pad_token is None:
        raise BadInput(f"{source.where}: the tokenizer has no padding token; choose a model that has one")
    read = Tokenizer.from_str(given.backend_tokenizer.to_str())
    read.no_truncation()  # some bring what their authors trained with
    read.no_padding()
    names = ("pad_token", "cls_token", "sep_token", "unk_token", "mask_token", "bos_token", "eos_token")
    known = {name: token for name in names if (token := getattr(given, name, None)) is not None}
    return _reader(read, given.model_max_length, **known)


def _reader(tokenizer: Tokenizer, longest: int, **special: str) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=longest,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        padding_side="right",
        **special,
    )
