"""A student as ONNX: one file that onnxruntime runs on any CPU, with its tokenizer and configuration beside it.

Closed labels need one pass, so the file holds one: from a message's tokens to a logit for each label. The head keeps
the labels' rows alone; with eight bits a weight that takes off a quarter of a student of 1M parameters, and of its
time. A student that writes has the keys and values of every layer as inputs and outputs, and reads each token once.

torch.onnx.export was weighed against what wraps it. optimum-onnx is for transformers 4. transformers' own exporter
patches both libraries, says that it is experimental, and writes the whole head. onnxruntime-genai writes text twice as
fast, but for a list of architectures, and its tokenizer leaves out normalisation and the space before a text: it read
other tokens in each of our messages. Without any of them eleven families of decoders, with their caches, and nine of
encoders give the model's logits to 6e-7; only a mixture of experts cannot be written.

`int8` is onnxruntime's dynamic quantisation: a byte a weight, activations rounded as they come. Weights use seven of
the eight bits, so that answers are the same on every CPU: with eight, a processor without VNNI overflows, and a student
of the demo gave 95.2% of its answers there (a Haswell, in qemu) and 99.6% here; with seven it gives 99.3% on both.
Unsigned bytes do that too, and MatMulNBits keeps 99.8%, but they are slower: with 20M parameters a message of 60 tokens
takes 21.3 ms in float32, 14.8 and 17.5 with these, and 8.9 so.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

MODEL = "model.onnx"
PAST, PRESENT = "past.", "present."
_LARGEST = 1_500_000_000
"""Bytes of weights that go into the file itself; ONNX ends at 2 GB, and more lie beside it."""


def write_onnx(trained: Path, folder: Path, labels: Sequence[str], *, int8: bool, where: str) -> None:
    """Write `model.onnx`, config.json and what generation needs to know; the tokenizer is copied by who calls.

    Args:
        trained: the student, as transformers saved it: a causal model, or one that classifies sequences.
        labels: closed labels, in the order that the logits will have; of a classifier its own, whatever is asked.
        int8: a byte for each weight.
        where: what a message begins with, such as `--format onnx`.

    Raises:
        BadInput: a package is missing, or the student cannot be written as ONNX.
    """
    _refuse_without_packages(where)
    from torch.onnx.errors import OnnxExporterError

    with _quietly():
        model = _load(trained)
        try:
            program = _program(model, labels)
        except OnnxExporterError:
            found = f"a student of type {type(model).__name__} cannot be written as ONNX by the installed torch"
            raise BadInput(f"{where}: {found}; use --format safetensors") from None
        _save(program, folder / MODEL, large=4 * model.num_parameters() > _LARGEST, int8=int8)
        model.config.save_pretrained(folder)
        if model.can_generate():
            model.generation_config.save_pretrained(folder)


def _refuse_without_packages(where: str) -> None:
    try:
        import onnxruntime.quantization  # noqa: F401
        import onnxscript  # noqa: F401  what torch.onnx.export writes with
    except ModuleNotFoundError as error:
        raise BadInput(f"{where}: there is no module '{error.name}'; run `pip install 'understudy[onnx]'`") from None


def _load(trained: Path) -> Any:
    import torch
    import transformers as hf

    config = hf.AutoConfig.from_pretrained(trained)
    classifies = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    kind = hf.AutoModelForSequenceClassification if classifies else hf.AutoModelForCausalLM
    return kind.from_pretrained(trained, dtype=torch.float32).eval()


def _program(model: Any, labels: Sequence[str]) -> Any:
    """What torch.onnx makes of the one pass that scores labels, or of the step that writes the next token.

    Shapes: B rows, T new positions, S positions seen so far, V labels or vocabulary, H heads, D their width.
    """
    import torch
    import transformers as hf

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Tensor, attention_mask: Tensor, past: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).logits, past

    class Decoder(Classifier):
        def forward(self, input_ids: Tensor, attention_mask: Tensor, past: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
            cache = hf.DynamicCache(list(zip(past[::2], past[1::2], strict=True))) if past else None
            position_BT = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
            output = self.model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_BT,
                past_key_values=cache,
                use_cache=bool(past),
                logits_to_keep=1,
            )
            return output.logits[:, -1], _tensors(cache) if cache else []

    if not model.can_generate():
        return _traced(Classifier(), [])
    if labels:
        _keep_labels(model, labels)
        return _traced(Decoder(), [])
    with torch.inference_mode():
        seen = model(input_ids=torch.ones(2, 3, dtype=torch.long), use_cache=True).past_key_values
    return _traced(Decoder(), _tensors(seen))


def _traced(module: Any, past: list[Tensor]) -> Any:
    """The graph, its lengths left open, and without the traces that name this machine's folders.

    Args:
        past: keys and values of some positions as an example, layer by layer, each (B, H, S - T, D).
    """
    import torch
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    new = torch.ones(2, 5, dtype=torch.long)
    seen = torch.ones(2, 5 + (past[0].shape[2] if past else 0), dtype=torch.long)
    layers = [f"{what}.{layer}" for layer in range(len(past) // 2) for what in ("key", "value")]
    program = torch.onnx.export(
        module.eval(),
        kwargs={"input_ids": new, "attention_mask": seen, "past": past},
        input_names=["input_ids", "attention_mask", *(PAST + layer for layer in layers)],
        output_names=["logits", *(PRESENT + layer for layer in layers)],
        dynamic_shapes={
            "input_ids": {0: "batch", 1: "tokens"},
            "attention_mask": {0: "batch", 1: "seen" if past else "tokens"},
            "past": [{0: "batch", 2: "past"}] * len(past),
        },
        dynamo=True,
        verbose=False,
    )
    assert program is not None, "asked for a program, not a file"
    ClearMetadataAndDocStringPass()(program.model)
    return program


def _tensors(cache: Any) -> list[Tensor]:
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]


def _keep_labels(model: Any, labels: Sequence[str]) -> None:
    """Leave the head the rows of the labels' tokens, and the configuration their names, as a classifier has them."""
    import torch

    tokens = [model.config.label_token_ids[label] for label in labels]
    head = model.get_output_embeddings()
    kept = torch.nn.Linear(head.in_features, len(tokens), bias=head.bias is not None)
    with torch.no_grad():
        kept.weight.copy_(head.weight[tokens])
        if head.bias is not None:
            kept.bias.copy_(head.bias[tokens])
    model.set_output_embeddings(kept)
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: place for place, label in enumerate(labels)}


def _save(program: Any, file: Path, *, large: bool, int8: bool) -> None:
    if not int8:
        program.save(file, external_data=large)
        return
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / MODEL
        program.save(whole, external_data=large)
        quantize_dynamic(
            whole,
            file,
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=large,
        )


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the warnings of the libraries, which are about themselves."""
    import transformers as hf

    bars, level = hf.utils.logging.is_progress_bar_enabled(), logging.root.manager.disable
    hf.utils.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        if bars:
            hf.utils.logging.enable_progress_bar()
