"""An encoder that was trained before, cut to its first layers, with a new head for a task's labels.

One that read sentences by the mean of their tokens gets a layer that does so in the end (`pooling`).

The library knows which classes read in both directions: those that were trained to fill in masked words.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..data.errors import BadInput
from .loading import check_tokenizer, check_whole, load_config, load_tokenizer, loaded, positions, reads_by_mean
from .transformers import name_of

_ALIKE = frozenset({"bert", "roberta", "xlm-roberta", "camembert", "electra"})
"""Model types with layers like BERT's, of which one can be made that averages."""


@dataclass(frozen=True)
class PretrainedEncoder:
    """What a student begins as.

    Raises:
        BadInput: it cannot be loaded safely, is no encoder, or has fewer layers than are to be kept.
        TeacherUnreachable: the hub does not answer.
    """

    source: Path | str
    revision: str
    labels: tuple[str, ...]
    layers: int | None
    """How many of its first ones are kept; None for all."""
    where: str
    """What a message begins with."""

    @property
    def identity(self) -> dict[str, str]:
        """A folder is named by its content, and what is made of it by a number that changes with this module."""
        return {"kind": "encoder", "model": name_of(self.source), "revision": self.revision, "version": "2"}

    def weights(self) -> tuple[Any, Any]:
        """The model in float32 and its tokenizer; its head, a pooler too, begins at random where it is new."""
        import torch
        import transformers as hf

        config = self._config()
        model, tokenizer, report = loaded(
            hf.AutoModelForSequenceClassification,
            self.source,
            self.revision,
            self.where,
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # a head for other labels
        )
        new = [".pooler."]
        if self._adds_layer(config):
            from .pooling import average

            average(model)
            new.append(f".layer.{config.num_hidden_layers - 1}.")
        absent = {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}
        body, place = f"{model.base_model_prefix}.", f"{self.where}: {self.source}"
        check_whole((name for name in absent if name.startswith(body) and not any(part in name for part in new)), place)
        check_tokenizer(model, tokenizer, place)
        return model, tokenizer

    def tokenizer(self) -> Any:
        """Its tokenizer, loaded without the model."""
        return load_tokenizer(self.source, self.revision, self.where)

    def shape(self) -> Any:
        """The model without its weights, to count what it has."""
        import torch
        import transformers as hf

        with torch.device("meta"):
            return hf.AutoModelForSequenceClassification.from_config(self._config())

    def positions(self) -> int:
        """Tokens that it reads at most."""
        return positions(self._config(), self.tokenizer())

    @cached_property
    def _by_mean(self) -> bool:
        return reads_by_mean(self.source, self.revision, self.where)

    def _adds_layer(self, config: Any) -> bool:
        return self._by_mean and config.model_type in _ALIKE

    def _config(self) -> Any:
        from transformers.models.auto import modeling_auto as auto

        config = load_config(self.source, self.revision, self.where)
        masked = auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES.keys()
        known = masked & auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.keys()
        if config.model_type not in known or config.is_encoder_decoder or getattr(config, "is_decoder", False):
            found = f"{self.where}: {self.source} is of type '{config.model_type}', which is no encoder"
            raise BadInput(f"{found}; choose a model such as BERT, or init: {{kind: hub}}")
        if self.layers is not None:
            if self.layers > config.num_hidden_layers:
                found = f"{self.where}: {self.source} has {config.num_hidden_layers} layers"
                raise BadInput(f"{found}, and init.layers = {self.layers}; lower it, or remove it for all of them")
            config.num_hidden_layers = self.layers
            if getattr(config, "layer_types", None):
                config.layer_types = config.layer_types[: self.layers]
        if self._adds_layer(config):
            config.num_hidden_layers += 1
        elif self._by_mean and hasattr(config, "classifier_pooling"):
            config.classifier_pooling = "mean"
        config.id2label = dict(enumerate(self.labels))
        config.label2id = {label: number for number, label in enumerate(self.labels)}
        config.problem_type = "single_label_classification"
        return config
