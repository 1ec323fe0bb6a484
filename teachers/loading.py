"""From a folder or a hub id to a model and its tokenizer, or to one line that says why not."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.errors import BadInput, TeacherUnreachable

if TYPE_CHECKING:
    from torch import Tensor


def chosen_device(device: str | None, where: str) -> Any:
    """The device that a recipe names, or the best there is.

    Raises:
        BadInput: it is not there.
    """
    import torch

    found = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if found.type == "cuda" and not torch.cuda.is_available():
        raise BadInput(f"{where}: device = '{device}', and torch finds no CUDA device; remove `device`")
    return found


def load_model(source: Path | str, revision: str, device: Any, where: str) -> tuple[Any, Any]:
    """A causal model and its tokenizer, without running any code that came with them."""
    import transformers as hf

    model, tokenizer, report = loaded(hf.AutoModelForCausalLM, source, revision, where, dtype=_dtype(device))
    check_whole(report["missing_keys"], f"{where}: {source}")
    check_tokenizer(model, tokenizer, f"{where}: {source}")
    _check_batches(model, f"{where}: {source}")
    if device.type == "cpu" and model.config._attn_implementation == "sdpa":
        _attend_in_groups(model)
    return model.to(device).eval(), tokenizer


def load_classifier(source: Path | str, revision: str, device: Any, where: str) -> tuple[Any, Any]:
    """A model with a head for closed labels and its tokenizer, without running any code that came with them."""
    import transformers as hf

    library = hf.AutoModelForSequenceClassification
    model, tokenizer, report = loaded(library, source, revision, where, dtype=_dtype(device))
    check_whole(report["missing_keys"], f"{where}: {source}")
    check_tokenizer(model, tokenizer, f"{where}: {source}")
    return model.to(device).eval(), tokenizer


def load_tokenizer(source: Path | str, revision: str, where: str) -> Any:
    """The tokenizer alone, without running any code that came with it."""
    import transformers as hf

    with _in_one_line(source, revision, where) as given:
        return hf.AutoTokenizer.from_pretrained(source, **given)


def load_config(source: Path | str, revision: str, where: str) -> Any:
    """What kind of model it is."""
    import transformers as hf

    with _in_one_line(source, revision, where) as given:
        return hf.AutoConfig.from_pretrained(source, **given)


def is_classifier(source: Path | str, revision: str, where: str) -> bool:
    """Whether it has a head for closed labels instead of one for words."""
    names = load_config(source, revision, where).architectures or ()
    return any(name.endswith("ForSequenceClassification") for name in names)


def reads_by_mean(source: Path | str, revision: str, where: str) -> bool:
    """Whether a model says of itself, as sentence-transformers write it, that a sentence is the mean of its tokens."""
    import json

    from transformers.utils import cached_file

    with _in_one_line(source, revision, where) as given:
        of_a_hub = {name: value for name, value in given.items() if name == "revision"}
        file = cached_file(
            str(source), "1_Pooling/config.json", _raise_exceptions_for_missing_entries=False, **of_a_hub
        )
        try:
            says = json.loads(Path(file).read_text(encoding="utf-8")) if file else {}
        except ValueError as error:
            raise ValueError(f"1_Pooling/config.json: {error}") from None
    return bool(says.get("pooling_mode_mean_tokens") or says.get("pooling_mode") == "mean")


def load_shape(source: Path | str, revision: str, where: str) -> Any:
    """The model without its weights, by its configuration alone: nothing of it is loaded, and nothing allocated."""
    import torch
    import transformers as hf

    config = load_config(source, revision, where)
    with _in_one_line(source, revision, where), torch.device("meta"):
        return hf.AutoModelForCausalLM.from_config(config)


def loaded(library: Any, source: Path | str, revision: str, where: str, **changes: Any) -> tuple[Any, Any, Any]:
    """Model, tokenizer, and what the library says of the weights; from safetensors only."""
    import transformers as hf

    bars = hf.utils.logging.is_progress_bar_enabled()
    hf.utils.logging.disable_progress_bar()
    try:
        with _in_one_line(source, revision, where) as given:
            tokenizer = hf.AutoTokenizer.from_pretrained(source, **given)
            model, report = library.from_pretrained(
                source, use_safetensors=True, output_loading_info=True, **given, **changes
            )
    finally:
        if bars:
            hf.utils.logging.enable_progress_bar()
    return model, tokenizer, report


@contextmanager
def _in_one_line(source: Path | str, revision: str, where: str) -> Iterator[dict[str, Any]]:
    """Within, whatever keeps a model from loading becomes a refusal.

    Yields:
        What every loader is given: no code of the model's own, and the revision of a hub's.
    """
    from safetensors import SafetensorError

    try:
        yield {"trust_remote_code": False, **({"revision": revision} if isinstance(source, str) else {})}
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise _refusal(error, source, revision, where) from None


def _dtype(device: Any) -> Any:
    import torch

    return torch.bfloat16 if device.type == "cuda" else torch.float32


def positions(config: Any, tokenizer: Any) -> int:
    """Tokens that an encoder reads at most, marks and all; RoBERTa has two positions more than it can use."""
    return int(min(config.max_position_embeddings, tokenizer.model_max_length))


def _attend_in_groups(model: Any) -> None:
    """For one new token, let heads that share keys ask together, where the library copies the keys for each head.

    A quarter of the time of a batch of a small model on a CPU.
    """
    import transformers as hf
    from torch.nn.functional import scaled_dot_product_attention
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **given: Any
    ) -> tuple[Tensor, None]:
        rows, heads, positions, width = query.shape
        groups = key.shape[1]
        by_head = given.get("position_bias") is not None or (mask is not None and mask.shape[1] > 1)
        if positions > 1 or groups == heads or by_head:
            attended: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, mask, **given)
            return attended
        grouped = query.reshape(rows, groups, heads // groups, width)
        read = scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=given["scaling"])
        return read.reshape(rows, 1, heads, -1), None

    hf.AttentionInterface.register("grouped", attend)
    hf.AttentionMaskInterface.register("grouped", sdpa_mask)
    model.set_attn_implementation("grouped")


def check_whole(missing: Iterable[str], place: str) -> None:
    if absent := sorted(missing):
        raise BadInput(f"{place} lacks {len(absent)} weights, such as {absent[0]}; save the whole model again")


def check_tokenizer(model: Any, tokenizer: Any, place: str) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        found = f"{place} has a tokenizer of {len(tokenizer)} tokens and a model of {rows}"
        raise BadInput(f"{found}; copy the tokenizer from the model it was trained with")


def _check_batches(model: Any, place: str) -> None:
    taken = inspect.signature(model.forward).parameters
    if not {"attention_mask", "position_ids", "past_key_values", "logits_to_keep"} <= set(taken):
        found = f"{place} is of type '{model.config.model_type}', which cannot be batched here"
        raise BadInput(f"{found}; serve it elsewhere and use `kind: openai`")


def _refusal(error: Exception, source: Path | str, revision: str, where: str) -> BadInput | TeacherUnreachable:
    """One line for whatever kept a model from loading."""
    if isinstance(source, Path):
        return BadInput(f"{where}: {source} cannot be loaded: {one_line(error)}; save the model again")
    if silent := silent_hub(error, source, where):
        return silent
    return BadInput(
        f"{where}: {source}@{revision} cannot be loaded from the hub: {one_line(error)}; "
        "check `model` and `revision`, and HF_TOKEN for a private one"
    )


def silent_hub(error: Exception, source: Path | str, where: str) -> TeacherUnreachable | None:
    """What to raise where the hub did not answer, as against: it has no such model."""
    from huggingface_hub import errors as hub

    cause = error.__cause__ or error
    silent = (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, hub.HTTPError)  # type: ignore[attr-defined]
    absent = (hub.RepositoryNotFoundError, hub.RevisionNotFoundError, hub.RemoteEntryNotFoundError)
    if isinstance(cause, silent) and not isinstance(cause, absent):
        return TeacherUnreachable(f"{where}: the hub does not answer for {source}; run again when it does")
    return None


def one_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".;: ")
