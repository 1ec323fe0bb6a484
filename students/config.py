"""What a recipe may say about a student."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from ..data.config import Recipe, fault

CONTROL = "{}-control"
"""Name of the student that a student with experts is held against."""

UNTRAINED = "untrained"
"""Folder of a student before it learns, beside those of its seeds."""

FINISHED = "trained.json"
"""Written into a student's folder last: what its training says of itself."""

_GENTLY = {"learning_rate": 1e-4, "epochs": 3, "dropout": 0.0, "noise": 0.0}
"""How a model that was trained before learns, by default."""

_ADAPTED = {"learning_rate": 1e-3}
"""How its adapters do: ten times as fast, or they learn nothing (Schulman et al. 2025, "LoRA Without Regret")."""

_READING = {"learning_rate": 1e-3, "epochs": 40}
"""How an encoder from scratch does: on banking77 twice the steps at half the rate were worth half a point."""

_GENTLY_READING = {"learning_rate": 3e-4, "epochs": 24, "batch": 32, "dropout": 0.0, "noise": 0.0}
"""And one that was trained before: on banking77 three layers of MiniLM had 91.2 after 12 epochs and 91.8 after 24."""

_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMB])")


def count(size: str) -> int:
    """Parameters in a size such as `1.5M`.

    Raises:
        ValueError: it is not such a size.
    """
    match = _SIZE.fullmatch(size)
    if match is None:
        raise ValueError(f"'{size}' is not a size; expected a number and K, M or B, such as 1M")
    return round(float(match[1]) * {"K": 1e3, "M": 1e6, "B": 1e9}[match[2]])


def _from_scratch(size: str) -> str:
    if not 300_000 <= count(size) <= 100_000_000:
        raise ValueError(f"'{size}' cannot be trained from scratch here; expected 0.3M to 100M")
    return size


def _dense_unless_said(init: Any) -> Any:
    return {"kind": "dense", **init} if isinstance(init, Mapping) and "kind" not in init else init


def _usual(init: Mapping[str, Any]) -> Mapping[str, Any]:
    """How a student of this kind learns, where its recipe does not say."""
    if init.get("kind") == "encoder":
        return _READING if init.get("model") is None else _GENTLY_READING
    return _GENTLY if init.get("kind") in ("hub", "upcycle") else {}


def _name_alone_will_do(method: Any) -> Any:
    return {"kind": method} if isinstance(method, str) else method


class Dense(Recipe):
    """A decoder from scratch: Qwen3 architecture, tied embeddings, byte-level BPE trained on the run's rows."""

    kind: Literal["dense"] = "dense"

    parameters: Annotated[str, AfterValidator(_from_scratch)] = "1M"
    """Parameters in all, tied embeddings counted once; the nearest shape not above it is built."""

    layers: int | None = Field(None, ge=1, le=48)
    """Decoder layers; by default what suits the size."""

    intermediate: int = Field(2, ge=1, le=8)
    """Neurons of a layer, in widths of the model: many where a student is to be cut from it."""

    vocabulary: int | None = Field(None, ge=512, le=65536)
    """Tokens in the vocabulary; by default what suits the size."""

    tokenizer: Literal["own", "teacher"] = "own"
    """Learnt from the run's rows, or the labelling teacher's, which `topk` needs."""

    @model_validator(mode="after")
    def _one_vocabulary(self) -> Dense:
        if self.tokenizer == "teacher" and self.vocabulary is not None:
            raise fault("the teacher's tokenizer has a vocabulary of its own; remove one", "vocabulary")
        return self


class Experts(Recipe):
    """What the layers of a student hold in the place of one feed-forward."""

    experts: int = Field(8, ge=2, le=128)
    """Experts of a layer."""

    active: int = Field(2, ge=1)
    """Experts that a token passes."""

    @model_validator(mode="after")
    def _enough_experts(self) -> Experts:
        if self.active > self.experts:
            raise fault(f"is {self.active}, and a layer has {self.experts} experts; ask for fewer", "active")
        return self


class Moe(Dense, Experts):
    """A decoder from scratch with experts: Qwen3-MoE, else as `dense`.

    What a token passes in a layer has the `intermediate` neurons of a dense one, whatever the experts.
    """

    kind: Literal["moe"]  # type: ignore[assignment]

    parameters: Annotated[str, AfterValidator(_from_scratch)] = "4M"
    """Parameters in all, every expert counted: what the folder holds and training takes."""


class Twin(Moe):
    """The dense decoder that a MoE student is held against: as wide and deep, with what a token passes there."""

    kind: Literal["twin"]  # type: ignore[assignment]


class Layers(Recipe):
    """A decoder cut out of a teacher that runs in this process: its most important layers, heads, neurons and tokens.

    It keeps the teacher's width, and begins with what the teacher knows about words.
    """

    kind: Literal["layers"]

    teacher: str
    """The teacher it is cut from, by its name under `teachers`: one of kind embedded or transformers."""

    parameters: Annotated[str, AfterValidator(_from_scratch)] = "1M"
    """Parameters at most, tied embeddings counted once; heads and neurons are left out until it fits."""

    layers: int = Field(1, ge=1, le=48)
    """Layers that are kept: those that change most what passes through them."""

    vocabulary: int | None = Field(None, ge=512, le=65536)
    """Tokens that are kept: those that the rows use most; by default what suits the size."""


class Hub(Recipe):
    """A model that was trained before: any causal one, from safetensors only, without code of its own."""

    kind: Literal["hub"]

    model: str = Field(min_length=1)
    """A folder (relative to the recipe) or a hub id."""

    revision: str = "main"


class Upcycle(Hub, Experts):
    """A dense Qwen3 model whose feed-forwards become experts, as many as one likes of each."""

    kind: Literal["upcycle"]  # type: ignore[assignment]

    redraw: float = Field(0.0, ge=0, le=1)
    """Share of each expert's neurons that begin at random, so that experts differ; 0 begins as good as the model."""


class Encoder(Recipe):
    """A bidirectional encoder with a head for closed labels, which reads a message once and writes nothing.

    From scratch (ModernBERT architecture, byte-level BPE trained on the run's rows), or a model that was trained before
    (BERT, RoBERTa, ModernBERT and their kin), from safetensors only, without code of its own.
    """

    kind: Literal["encoder"]

    model: str | None = Field(None, min_length=1)
    """The model that it begins as: a folder (relative to the recipe) or a hub id; absent: from scratch."""

    revision: str = "main"

    parameters: Annotated[str, AfterValidator(_from_scratch)] | None = None
    """Of one from scratch, in all, by default 2M; the nearest shape not above it is built."""

    layers: int | None = Field(None, ge=1, le=48)
    """From scratch, what suits the size; of a model that was trained before its first ones, or all."""

    vocabulary: int | None = Field(None, ge=512, le=65536)
    """Tokens of one from scratch; by default what suits the size."""

    @model_validator(mode="before")
    @classmethod
    def _it_has_a_size_from_scratch(cls, init: Any) -> Any:
        scratch = isinstance(init, Mapping) and init.get("model") is None
        return {"parameters": "2M", **init} if scratch else init

    @model_validator(mode="after")
    def _a_model_has_its_own(self) -> Encoder:
        for name in ("parameters", "vocabulary") if self.model else ():
            if getattr(self, name) is not None:
                raise fault("is for an encoder from scratch, and `model` has its own; remove one", name)
        return self


AnyInit = Dense | Moe | Twin | Layers | Hub | Upcycle | Encoder
"""Where a student may come from."""


class Method(Recipe):
    """One way to learn from a teacher; what it leaves open is as the student's `train` has it."""

    epochs: int | None = Field(None, gt=0)
    """Passes over the rows."""

    learning_rate: float | None = Field(None, gt=0)
    """Peak of the schedule."""

    def settings(self, train: Train) -> dict[str, Any]:
        """What a student does otherwise while it learns by this method."""
        return {name: value for name in ("epochs", "learning_rate") if (value := getattr(self, name)) is not None}


class Sft(Method):
    """Fine-tuning on the teacher's answers."""

    kind: Literal["sft"] = "sft"


class TopK(Method):
    """On the teacher's likeliest tokens at each position of its answers.

    The label stage keeps them where label.logprobs says how many; the student must read the teacher's tokens.
    """

    kind: Literal["topk"]


class Further(Method):
    """A method for a student that can answer already: by default one pass, a twentieth as fast."""

    def settings(self, train: Train) -> dict[str, Any]:
        return {"epochs": 1, "learning_rate": train.learning_rate / 20} | super().settings(train)


class Preference(Further):
    """On pairs of the student's own answers, of which a teacher says which is better."""

    kind: Literal["preference"]

    teacher: str | None = None
    """Who ranks; by default whoever labels."""

    rows: int = Field(1000, gt=0)
    """Training inputs that are answered twice; a pair is ranked in both orders, by two requests."""

    temperature: float = Field(1.0, gt=0)
    """At which the student answers: its answers should differ."""


class OnPolicy(Further):
    """Experimental: on the teacher's probabilities of what the student itself writes while it learns.

    The teacher has to be in this process, and the student must read its tokens.
    """

    kind: Literal["on_policy"]


AnyMethod = Annotated[
    Sft | TopK | Preference | OnPolicy, Field(discriminator="kind"), BeforeValidator(_name_alone_will_do)
]


class Lora(Recipe):
    """Adapters of a low rank that learn in the place of a model's weights, and are added to them at the end."""

    rank: int = Field(16, ge=1, le=1024)

    alpha: float = Field(32, gt=0)
    """What an adapter says counts alpha / rank times."""

    targets: list[str] | Literal["all-linear"] = "all-linear"
    """Layers with an adapter, by the end of their names, such as q_proj; or all but the head."""

    @field_validator("targets", mode="before")
    @classmethod
    def _some_layers(cls, targets: Any) -> Any:
        if targets == [] or (isinstance(targets, str) and targets != "all-linear"):
            raise ValueError(f"is {targets or 'empty'}; expected a list such as [q_proj, v_proj], or all-linear")
        return targets


class Train(Recipe):
    """How a student learns."""

    method: list[AnyMethod] = Field([Sft()], min_length=1)
    """Ways to learn, one after the other: each goes on from where the one before it ended."""

    labels: Literal["auto", "soft", "hard"] = "auto"
    """Closed labels: the teacher's probabilities where it gave them (auto), always, or its first answer only."""

    epochs: int = Field(24, gt=0)
    """Passes over the training rows."""

    batch: int = Field(64, gt=0)
    """Rows per optimiser step."""

    learning_rate: float = Field(2e-3, gt=0)
    """Peak of the schedule."""

    weight_decay: float = Field(0.05, ge=0)

    dropout: float = Field(0.1, ge=0, lt=1)
    """Share of activations dropped in training at what each block adds; twice that at the embeddings."""

    noise: float = Field(0.1, ge=0, lt=1)
    """Closed labels: share of the words left out, and of the tokens cut in two, anew in each epoch."""

    max_length: int = Field(256, gt=8)
    """Tokens of prompt and answer together; a longer input is cut at its end, a longer answer leaves the row out."""

    lora: Lora | None = None
    """Of a model that was trained before: adapters learn in the place of its weights; takes less memory."""

    patience: int | None = Field(None, ge=1)
    """Eighths of the training without a lower loss on the validation side that end it; the best weights stay.

    Of `sft` and `topk`, which learn from rows.
    """

    report_to: list[Literal["tensorboard", "wandb", "trackio"]] = Field([])
    """Who is told how it goes, beside `health.jsonl`; changes nothing of the student."""

    when: int = Field(1, ge=1)
    """Rows that are new, gone or labelled otherwise before a student that is there already is trained anew."""

    seeds: list[int] = Field([0], min_length=1)
    """One student is trained for each; the one that does best on the validation side is kept."""


class StudentRecipe(Recipe):
    """One student: where it comes from and how it learns."""

    init: Annotated[AnyInit, Field(discriminator="kind"), BeforeValidator(_dense_unless_said)] = Dense()
    train: Train = Train()

    control: bool = False
    """Of a student with experts: train its dense counterpart too, alike, and say what the experts were worth."""

    def counterpart(self) -> StudentRecipe:
        """The dense student that this one is held against.

        It has as many parameters as are active here, or is the model that experts were made from.
        """
        init: Dense | Hub
        if isinstance(self.init, Upcycle):
            init = Hub(kind="hub", model=self.init.model, revision=self.init.revision)
        else:
            init = Twin.model_validate({**self.init.model_dump(), "kind": "twin"})
        return self.model_copy(update={"init": init, "control": False})

    @property
    def begins_as(self) -> Hub | Encoder | None:
        """Its `init`, where that names a model that was trained before."""
        return self.init if isinstance(self.init, Hub | Encoder) and self.init.model is not None else None

    def phases(self) -> list[StudentRecipe]:
        """The student with each of its methods alone, in their order."""
        return [self._learning(method) for method in self.train.method]

    def _learning(self, method: Method) -> StudentRecipe:
        own = method.settings(self.train)
        return self.model_copy(update={"train": self.train.model_copy(update={"method": [method], **own})})

    def learns_by(self, kind: str) -> bool:
        """Whether a method of this kind is among its methods."""
        return any(method.kind == kind for method in self.train.method)

    @model_validator(mode="before")
    @classmethod
    def _what_is_known_is_not_forgotten(cls, student: Any) -> Any:
        """A model that was trained before learns more slowly, and reads what it is given, unless the recipe says so."""
        init = student.get("init") if isinstance(student, Mapping) else None
        if not isinstance(init, Mapping):
            return student
        train = student.get("train", {})
        if not isinstance(train, Mapping):
            return student
        adapted = {} if train.get("lora") is None else _ADAPTED
        return {**student, "train": {**_usual(init), **adapted, **train}}

    @model_validator(mode="after")
    def _what_cannot_be_is_not_asked_for(self) -> StudentRecipe:
        if self.control and (not isinstance(self.init, Experts) or isinstance(self.init, Twin)):
            raise fault("is for students with experts, and this one has none; use init: {kind: moe}", "control")
        if self.train.lora and not isinstance(self.init, Hub):
            raise fault("is for a model that was trained before, and this one was not; remove it", "train", "lora")
        for name in ("dropout", "noise") if self.begins_as else ():
            if getattr(self.train, name):
                raise fault("is for students from nothing or cut from a teacher; remove it", "train", name)
        if isinstance(self.init, Encoder) and any(method.kind != "sft" for method in self.train.method):
            raise fault("an encoder learns labels, by sft; remove the others", "train", "method")
        first = self.train.method[0]
        if isinstance(first, Further):
            found = f"{first.kind} learns from what a student says of its task, and none knows it before it has learnt"
            raise fault(f"{found}; use [sft, {first.kind}]", "train", "method")
        return self
