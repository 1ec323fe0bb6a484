"""Low-rank adapters: few numbers learn in the place of a model's weights, and are added to them at the end.

Labels are new to the model, and the token that ends an answer may be: their rows of the vocabulary learn too. PEFT
knows where adapters go in every family; what is left in the end is the model alone, and whoever loads a student needs
no PEFT.
Source: Hu et al. 2021, arXiv:2106.09685.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..data.errors import BadInput
from .config import Lora

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def adapted(model: PreTrainedModel, lora: Lora, tokens: Sequence[int]) -> PeftModel:
    """The model with its weights frozen and adapters beside them; `merge_and_unload` makes the model whole again.

    Args:
        tokens: those whose rows in the vocabulary learn too.

    Raises:
        BadInput: PEFT is not installed, or a target is no layer of the model.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise BadInput("train.lora: needs PEFT; `pip install 'understudy[lora]'`, or remove it") from None
    _check_targets(model, lora)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=lora.targets,
        trainable_token_indices={table: list(tokens) for table in _tables(model)} if tokens else None,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of settings for experts that PEFT makes, and needs in part
        made = get_peft_model(model, config)
    made.peft_config["default"].base_model_name_or_path = ""  # else each checkpoint asks the hub about that model
    return made


def adapted_size(model: PreTrainedModel, lora: Lora, tokens: int) -> int:
    """Numbers that learn; of a model on the meta device, without allocating any.

    Args:
        tokens: how many have rows that learn too.

    Raises:
        BadInput: as `adapted`.
    """
    with torch.device(model.device):
        learning = adapted(model, lora, range(tokens))
    return sum(weight.numel() for weight in learning.parameters() if weight.requires_grad)


def _check_targets(model: PreTrainedModel, lora: Lora) -> None:
    names = list(_linear(model))
    for target in lora.targets if isinstance(lora.targets, list) else ():
        if not any(f".{name}".endswith(f".{target}") for name in names):
            known = sorted({name.rpartition(".")[2] for name in names})
            nearest = get_close_matches(target, known, cutoff=0.3) or known
            raise BadInput(
                f"train.lora.targets: '{target}' is no linear layer of this '{model.config.model_type}' model; choose "
                f"among {', '.join(nearest)}, or all-linear"
            )


def _linear(model: PreTrainedModel) -> Iterator[str]:
    """Names of the layers that an adapter can stand beside; the head is none, for its weight is read by itself."""
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and module is not head:
            yield name


def _tables(model: Any) -> list[str]:
    """Names of the matrices that hold a row for each token: one where they are tied, else two."""
    read, said = model.get_input_embeddings(), model.get_output_embeddings()
    tables = [read] if read.weight is said.weight else [read, said]
    return [name.rpartition(".")[2] for name, module in model.named_modules() if module in tables]
