"""How a student begins: its tokenizer, and the weights that training starts from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.rows import Example
from .build import build_dense, build_moe, vocabulary_for
from .config import AnyInit, Dense, Encoder, Hub, Layers, Moe, Twin, Upcycle
from .cut import MEASURED, Larger, cut_model, cut_tokenizer
from .encoder import build_encoder, learn_reader, own_reader
from .hub import Pretrained, student_model, student_tokenizer
from .tokenizer import save_tokenizer, train_tokenizer
from .upcycle import upcycled

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Learnt:
    """The student itself, as an earlier method left it in a folder."""

    folder: Path


Source = Larger | Pretrained | Learnt
"""What a student is cut from, begins as, or goes on from."""


@dataclass(frozen=True)
class TrainingRows:
    """The rows of both sides, read anew at each call, and the closed labels if there are any."""

    train: Callable[[], Iterator[Example]]
    validation: Callable[[], Iterator[Example]]
    labels: tuple[str, ...] = ()
    writes: bool = False
    """Some outputs are text beside the labels, so that case matters; without labels it always does."""
    vocabulary: Callable[[], Iterator[Example]] | None = None
    """Rows whose words make the tokens, and so the student's shape; by default those it trains on."""

    @property
    def only_labels(self) -> bool:
        """No output is text, so the student only reads, and upper and lower case alike."""
        return bool(self.labels) and not self.writes


def first_weights(
    init: AnyInit, rows: TrainingRows, seed: int, kept: Path, source: Source | None
) -> tuple[PreTrainedTokenizerFast, PreTrainedModel]:
    """The tokenizer, as it was kept when the rows were first read, and the model.

    Raises:
        BadInput: the source cannot be cut, or cannot be taught.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast

    if isinstance(source, Learnt):
        library = AutoModelForSequenceClassification if isinstance(init, Encoder) else AutoModelForCausalLM
        model = library.from_pretrained(source.folder, dtype=torch.float32)
        return PreTrainedTokenizerFast.from_pretrained(source.folder), model
    if not kept.exists():
        unfinished = kept.with_suffix(".part")
        save_tokenizer(_first_tokenizer(init, rows, source), unfinished)
        unfinished.rename(kept)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(kept)
    if isinstance(init, Moe) and not isinstance(init, Twin):
        return tokenizer, build_moe(init, tokenizer, rows.labels, seed)
    if isinstance(init, Dense):
        return tokenizer, build_dense(init, tokenizer, rows.labels, seed)
    if isinstance(init, Encoder):
        begun = source.model if isinstance(source, Pretrained) else build_encoder(init, tokenizer, rows.labels, seed)
        return tokenizer, begun
    if isinstance(source, Pretrained):
        model = student_model(source, tokenizer, rows.labels)
        return tokenizer, upcycled(model, init, seed, source.where) if isinstance(init, Upcycle) else model
    assert isinstance(init, Layers), "a student is built, cut or loaded"
    assert isinstance(source, Larger), "a student of kind layers is cut from a model"
    measured = [row.input for row in islice(rows.train(), MEASURED)]
    return tokenizer, cut_model(source, tokenizer, init, rows.labels, measured)


def _first_tokenizer(init: AnyInit, rows: TrainingRows, source: Source | None) -> PreTrainedTokenizerFast:
    """Learnt or cut from the rows, or the model's own."""

    def texts() -> Iterator[str]:
        for row in (rows.vocabulary or rows.train)():
            yield row.input
            if row.output not in rows.labels:
                yield row.output

    if isinstance(source, Pretrained):
        return own_reader(source) if isinstance(init, Encoder) else student_tokenizer(source, rows.labels)
    assert not isinstance(init, Hub), "a student of kind hub begins as a model"
    most = vocabulary_for(init)
    if isinstance(init, Encoder):
        return learn_reader(texts(), most)
    if isinstance(source, Larger):
        return cut_tokenizer(source, texts(), most, rows.labels, fold_case=rows.only_labels)
    return train_tokenizer(texts(), most, rows.labels, fold_case=rows.only_labels)


def keep_untrained(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """The student before it learns, of the first seed: what training was worth is measured from there."""
    if folder.exists():
        return
    unfinished = folder.with_suffix(".part")
    model.save_pretrained(unfinished)
    save_tokenizer(tokenizer, unfinished)
    unfinished.rename(folder)
