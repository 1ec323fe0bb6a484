"""Students that read and choose: from scratch, and begun as an encoder that was trained before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from understudy.data.errors import BadInput
from understudy.data.rows import Example
from understudy.students.batches import encode
from understudy.students.config import Encoder, StudentRecipe, count
from understudy.students.encoder import build_encoder, learn_reader, own_reader
from understudy.students.hub import Pretrained
from understudy.students.trainer import train_student
from understudy.students.weights import Learnt, TrainingRows
from understudy.teachers.encoder import PretrainedEncoder

from .test_students_hub import LABELS, by_bytes, quiet, rows

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
}
FAMILIES = {
    "bert": (hf.BertConfig, {}),
    "roberta": (hf.RobertaConfig, {"max_position_embeddings": 130}),
    "modernbert": (hf.ModernBertConfig, {}),
    "electra": (hf.ElectraConfig, {"embedding_size": 32}),
    "distilbert": (hf.DistilBertConfig, {"dim": 32, "hidden_dim": 64, "n_layers": 3, "n_heads": 2}),
    "mpnet": (hf.MPNetConfig, {"max_position_embeddings": 130}),
    "deberta-v2": (hf.DebertaV2Config, {}),
}


def student(init: dict | None = None, **train) -> StudentRecipe:
    fields = {"epochs": 6, "batch": 16, "max_length": 64, **train}
    scratch = {"parameters": "0.3M", "vocabulary": 512}
    return StudentRecipe.model_validate({"init": {"kind": "encoder", **(init or scratch)}, "train": fields})


def given(*, soft: bool = True) -> TrainingRows:
    return TrainingRows(lambda: iter(rows(96, soft=soft)), lambda: iter(rows(24, start=200)), LABELS)


def pieces() -> hf.PreTrainedTokenizerFast:
    """A tokenizer as BERT has it, of a few words, that cuts and pads as its authors once did."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([row.input for row in rows(60)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=128, **dict(zip(names, special, strict=True))
    )


def written(folder: Path, name: str, **changes) -> Path:
    """A model of this family with random weights, as people find them: trained to fill in masked words."""
    tokenizer = pieces()
    kind, own = FAMILIES[name]
    torch.manual_seed(0)
    config = kind(**{"vocab_size": len(tokenizer), "pad_token_id": 0, **SMALL, **own, **changes})
    hf.AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def begun(folder: Path, layers: int | None = None) -> PretrainedEncoder:
    return PretrainedEncoder(folder, "main", LABELS, layers, "init.model = m")


def test_an_encoder_from_scratch_learns_labels_and_says_them_in_plain_transformers(tmp_path):
    result = train_student(student(), given(), tmp_path / "s", 0, quiet)

    assert result["validation_agreement"] == 100
    assert result["parameters"] <= 300_000
    model = hf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "s")
    assert model.config.id2label == dict(enumerate(LABELS))
    pipe = hf.pipeline("text-classification", str(tmp_path / "s"), device="cpu")
    asked = rows(6, start=300)
    assert [said["label"] for said in pipe([row.input.upper() for row in asked])] == [row.output for row in asked]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_an_encoder_of_every_family_is_cut_taught_and_read_in_plain_transformers(name, tmp_path):
    source = begun(written(tmp_path / "m", name), 2)
    recipe = student({"model": "m", "layers": 2}, epochs=8, learning_rate=3e-3)

    result = train_student(
        recipe, given(), tmp_path / "s", 0, quiet, lambda: Pretrained(*source.weights(), source.where)
    )

    assert result["validation_agreement"] == 100
    model = hf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "s")
    assert model.config.num_hidden_layers == 2
    pipe = hf.pipeline("text-classification", str(tmp_path / "s"), device="cpu")
    asked = rows(6, start=300)
    assert [said["label"] for said in pipe([row.input for row in asked])] == [row.output for row in asked]


def by_mean(folder: Path, says: str = '{"pooling_mode_mean_tokens": true}') -> Path:
    """The same model, that says of itself what sentence-transformers write."""
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(says)
    return folder


@pytest.mark.parametrize("name", ["bert", "roberta", "electra"])
def test_one_that_read_sentences_by_their_mean_begins_with_it(name, tmp_path):
    folder = written(tmp_path / "m", name)
    plain, _ = begun(folder, 2).weights()
    source = begun(by_mean(folder), 2)
    model, tokenizer = source.weights()
    batch = tokenizer([row.input for row in rows(3)] + ["hello"], padding=True, return_tensors="pt")

    with torch.no_grad():
        states = plain.eval().base_model(**batch).last_hidden_state
        read = model.eval().base_model(**batch).last_hidden_state[:, 0]

    there = batch["attention_mask"][..., None]
    mean = torch.nn.functional.layer_norm((states * there).sum(1) / there.sum(1), (32,))
    assert torch.cosine_similarity(read, mean).min() > 0.95
    assert (plain.config.num_hidden_layers, model.config.num_hidden_layers) == (2, 3)
    assert model.num_parameters() == source.shape().num_parameters()


def test_a_class_that_knows_means_is_told_to_take_it(tmp_path):
    model, _ = begun(by_mean(written(tmp_path / "m", "modernbert"), '{"pooling_mode": "mean"}'), 2).weights()

    assert (model.config.classifier_pooling, model.config.num_hidden_layers) == ("mean", 2)


def test_a_pooling_that_cannot_be_read_is_one_line(tmp_path):
    with pytest.raises(BadInput, match=r"^init.model = m: .*/m cannot be loaded: 1_Pooling/config.json: "):
        begun(by_mean(written(tmp_path / "m", "bert"), "{")).weights()


def test_a_second_method_goes_on_from_where_the_first_ended(tmp_path):
    train_student(student(), given(), tmp_path / "first", 0, quiet)
    slowly = student(epochs=1, learning_rate=1e-5)

    result = train_student(slowly, given(), tmp_path / "s", 0, quiet, lambda: Learnt(tmp_path / "first"))

    assert result["validation_agreement"] == 100


def test_hard_labels_are_learnt_where_the_teacher_gave_no_probabilities(tmp_path):
    result = train_student(student(labels="hard"), given(soft=False), tmp_path / "s", 0, quiet)

    assert result["validation_agreement"] == 100


class Killed(BaseException):
    """Stands for a signal."""


@pytest.mark.slow
@pytest.mark.parametrize("init", [None, {"model": "m", "layers": 1}])
def test_a_resumed_training_ends_with_the_same_weights(init, tmp_path):
    source = begun(by_mean(written(tmp_path / "m", "bert")), 1)

    def load() -> Pretrained:
        return Pretrained(*source.weights(), source.where)

    def die(step: int, steps: int, detail: str) -> None:
        if step == 15:
            raise Killed

    loads = load if init else None
    train_student(student(init), given(), tmp_path / "whole", 0, quiet, loads)
    with pytest.raises(Killed):
        train_student(student(init), given(), tmp_path / "cut", 0, die, loads)
    seen: list[int] = []
    train_student(student(init), given(), tmp_path / "cut", 0, lambda step, _, __: seen.append(step), loads)

    assert seen[0] > 1, "it began anew instead of going on"
    library = hf.AutoModelForSequenceClassification
    whole, cut = (library.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "cut"))
    for name, weight in whole.items():
        assert torch.equal(weight, cut[name]), name


@pytest.mark.parametrize("size", ["0.5M", "2M", "4M", "20M"])
def test_the_widest_encoder_within_its_size_is_built(size):
    init = Encoder(kind="encoder", parameters=size, vocabulary=1024)
    tokenizer = learn_reader([row.input for row in rows(60)], 1024)

    model = build_encoder(init, tokenizer, LABELS, 0)

    assert 0.7 * count(size) < model.num_parameters() <= count(size)


def test_its_first_layers_are_the_models_own(tmp_path):
    folder = written(tmp_path / "m", "modernbert")
    whole, _ = begun(folder).weights()
    cut, _ = begun(folder, 1).weights()

    assert cut.config.layer_types == whole.config.layer_types[:1]
    ours, theirs = cut.model.state_dict(), whole.model.state_dict()
    assert ours.keys() < theirs.keys()
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())


def test_a_head_for_other_labels_is_made_anew(tmp_path):
    config = hf.BertConfig(vocab_size=len(pieces()), num_labels=7, **SMALL)
    hf.AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    pieces().save_pretrained(tmp_path)

    model, _ = begun(tmp_path).weights()

    assert model.config.id2label == dict(enumerate(LABELS))
    assert model.classifier.weight.shape == (2, 32)


def test_a_long_message_loses_its_end_and_not_the_marks(tmp_path):
    long = [Example("a", "parcel " * 99, "refund", "a", "train", "unlabeled")]
    for number, tokenizer in enumerate(
        (learn_reader(["parcel"] * 9, 512), own_reader(Pretrained(None, pieces(), "m")))
    ):
        cache = tmp_path / f"{number}.arrow"
        data = encode(lambda: iter(long), tokenizer, LABELS, soft=False, max_length=32, cache=cache)

        assert (len(data[0]["prompt"]), data[0]["answer"]) == (31, [1])
        assert data[0]["prompt"][0] == tokenizer.cls_token_id
        assert data[0]["prompt"][-1] == tokenizer.sep_token_id


def test_what_is_no_whole_encoder_is_refused_in_one_line(tmp_path):
    def refusal(folder: Path, layers: int | None = None) -> str:
        with pytest.raises(BadInput) as caught:
            begun(folder, layers).weights()
        return str(caught.value).replace(str(tmp_path), "")

    bert = written(tmp_path / "bert", "bert")
    decoder = written(tmp_path / "decoder", "bert", is_decoder=True)
    llama = tmp_path / "llama"
    by_bytes().save_pretrained(llama)
    hf.LlamaConfig(**SMALL).save_pretrained(llama)
    part = written(tmp_path / "part", "bert")
    weights = load_file(part / "model.safetensors")
    save_file({name: weight for name, weight in weights.items() if "layer.1." not in name}, part / "model.safetensors")
    other = written(tmp_path / "other", "bert")
    big = pieces()
    big.add_tokens(["new"])
    big.save_pretrained(other)
    padless = pieces()
    padless.pad_token = None

    assert refusal(bert, 4) == (
        "init.model = m: /bert has 3 layers, and init.layers = 4; lower it, or remove it for all of them"
    )
    assert refusal(decoder) == (
        "init.model = m: /decoder is of type 'bert', which is no encoder; choose a model such as BERT, or init: "
        "{kind: hub}"
    )
    assert refusal(llama).startswith("init.model = m: /llama is of type 'llama', which is no encoder; ")
    assert refusal(part).startswith("init.model = m: /part lacks 16 weights, such as bert.encoder.layer.1.attention.")
    assert refusal(other).startswith("init.model = m: /other has a tokenizer of ")
    with pytest.raises(BadInput, match=r"^m: the tokenizer has no padding token; choose a model that has one$"):
        own_reader(Pretrained(None, padless, "m"))
