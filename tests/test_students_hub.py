"""Students that begin as a model that was trained before, of the families people have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as hf

from understudy.data.errors import BadInput
from understudy.data.rows import Example, Message, Prompt
from understudy.data.teacher import Sampling
from understudy.students.batches import encode, render
from understudy.students.config import StudentRecipe
from understudy.students.hub import Pretrained, student_model, student_tokenizer
from understudy.students.tokenizer import answer_mark, label_tokens, turn_end
from understudy.students.trainer import train_student
from understudy.students.weights import TrainingRows
from understudy.teachers.local import LocalModel
from understudy.teachers.transformers import TransformersTeacher

MODELS = Path(__file__).parents[2] / "shared" / "models"
LABELS = ("lost parcel", "refund")
WORDS = {"lost parcel": ("parcel", "courier", "late", "tracking"), "refund": ("money", "back", "pay", "price")}
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
}
FAMILIES = {
    "llama": (hf.LlamaConfig, {"tie_word_embeddings": False}),
    "gemma": (hf.GemmaConfig, {}),
    "gemma2": (hf.Gemma2Config, {"query_pre_attn_scalar": 16}),
    "phi": (hf.PhiConfig, {}),
    "phi3": (hf.Phi3Config, {}),
    "qwen2": (hf.Qwen2Config, {}),
    "qwen3": (hf.Qwen3Config, {"tie_word_embeddings": True}),
    "qwen3_moe": (hf.Qwen3MoeConfig, {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}),
    "olmo2": (hf.Olmo2Config, {}),
    "olmoe": (hf.OlmoeConfig, {"num_experts": 4, "num_experts_per_tok": 2}),
}


def rows(count: int, *, soft: bool = False, start: int = 0) -> list[Example]:
    found = []
    for number in range(start, start + count):
        label = LABELS[number % 2]
        words = [WORDS[label][(number // 2 + step) % 4] for step in range(2)]
        probs = {name: 0.9 if name == label else 0.1 for name in LABELS} if soft else None
        text = f"hello {words[0]} number {number % 17} {words[1]}"
        found.append(Example(f"r{number}", text, label, f"r{number}", "train", "unlabeled", probs))
    return found


def by_bytes() -> hf.PreTrainedTokenizerFast:
    """A tokenizer as Qwen, Llama 3, Phi and OLMo have them, of a few words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([row.input + " lost parcel refund" for row in rows(60)], trainer)
    tokenizer.add_special_tokens(marks)  # behind the vocabulary, where such models have them
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=marks[0], pad_token=marks[0], chat_template=CHATML
    )


@pytest.fixture(scope="module")
def tokenizer() -> hf.PreTrainedTokenizerFast:
    return by_bytes()


def family(name: str, tokenizer: hf.PreTrainedTokenizerFast, **changes) -> hf.PreTrainedModel:
    kind, given = FAMILIES[name]
    torch.manual_seed(0)
    config = kind(**SMALL | {"vocab_size": len(tokenizer), "eos_token_id": 0, "pad_token_id": 0} | given | changes)
    return hf.AutoModelForCausalLM.from_config(config)


def quiet(step: int, steps: int, detail: str) -> None:
    """Progress that nobody reads."""


def student(**train) -> StudentRecipe:
    fields = {"epochs": 6, "batch": 8, "learning_rate": 3e-3, "max_length": 64, **train}
    return StudentRecipe.model_validate({"init": {"kind": "hub", "model": "m"}, "train": fields})


def taught(source: Pretrained, folder: Path, *, soft: bool = False, **train) -> dict:
    some = TrainingRows(lambda: iter(rows(96, soft=soft)), lambda: iter(rows(24, start=200)), LABELS)
    return train_student(student(**train), some, folder, 0, quiet, lambda: source)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_learns_labels_and_answers_with_them_in_plain_transformers(name, tokenizer, tmp_path):
    source = Pretrained(family(name, tokenizer), tokenizer, "init.model = m")

    result = taught(source, tmp_path / "seed-0", soft=True)

    assert result["validation_agreement"] == 100
    model = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "seed-0").eval()
    loaded = hf.AutoTokenizer.from_pretrained(tmp_path / "seed-0")
    prompts = loaded(render(loaded, [row.input for row in rows(4, start=300)]), return_tensors="pt", padding=True)
    with torch.inference_mode():
        said = model.generate(**prompts, max_new_tokens=4, do_sample=False)[:, prompts["input_ids"].shape[1] :]
    assert [loaded.decode(ids, skip_special_tokens=True) for ids in said] == [row.output for row in rows(4, start=300)]
    assert model.config.label_token_ids == dict(zip(LABELS, label_tokens(loaded, LABELS), strict=True))


def test_labels_are_entries_behind_all_others_and_messages_are_read_as_before(tokenizer):
    taken = student_tokenizer(Pretrained(None, tokenizer, "m"), ("lost parcel", "refund", "änderung"))

    tokens = label_tokens(taken, ("lost parcel", "refund", "änderung"))
    texts = ["a refund for a lost parcel", "refund", "<|im_end|> änderung 🙂"]
    assert [taken.decode([token]) for token in tokens] == ["lost parcel", "refund", "änderung"]
    assert min(token for token in tokens if token >= len(tokenizer)) == len(tokenizer)
    assert taken(texts)["input_ids"] == tokenizer(texts)["input_ids"]
    assert render(taken, ["hi"]) == ["<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"]
    assert taken.convert_ids_to_tokens([turn_end(taken)]) == ["<|im_end|>"]


def test_a_label_begins_as_the_mean_of_the_words_of_its_name(tokenizer):
    source = Pretrained(family("llama", tokenizer), tokenizer, "m")
    before = [
        table.weight.clone() for table in (source.model.get_input_embeddings(), source.model.get_output_embeddings())
    ]

    taken = student_tokenizer(source, LABELS)
    model = student_model(source, taken, LABELS)

    words = tokenizer("lost parcel")["input_ids"]
    for table, old in zip((model.get_input_embeddings(), model.get_output_embeddings()), before, strict=True):
        assert torch.allclose(table.weight[label_tokens(taken, LABELS)[0]], old[words].mean(0))
        assert torch.equal(table.weight[: len(old)], old)


def test_a_long_message_loses_its_end_and_not_the_turn_marks(tokenizer, tmp_path):
    taken = student_tokenizer(Pretrained(None, tokenizer, "m"), LABELS)
    long = Example("a", "parcel " * 99, "refund", "a", "train", "unlabeled")

    data = encode(lambda: iter([long]), taken, LABELS, soft=False, max_length=32, cache=tmp_path / "rows.arrow")

    assert len(data[0]["prompt"]) + len(data[0]["answer"]) == 32
    assert taken.decode(data[0]["prompt"]).endswith("parcel<|im_end|>\n<|im_start|>assistant\n")
    assert data[0]["prompt"][-len(answer_mark(taken)) :] == answer_mark(taken)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stories260K", "tinystories-656k"])
def test_a_model_without_a_chat_template_and_with_pieces_for_spaces_is_taught(name, tmp_path):
    if not MODELS.exists():
        pytest.skip("needs the pretrained story models of ../shared/models")
    source = Pretrained(*TransformersTeacher(MODELS / name).weights(), f"init.model = {name}")

    result = taught(source, tmp_path / "seed-0", epochs=8)

    assert result["validation_agreement"] == 100
    taken = hf.AutoTokenizer.from_pretrained(tmp_path / "seed-0")
    assert [taken.decode([token]) for token in label_tokens(taken, LABELS)] == list(LABELS)
    asked = [Prompt("p", (Message("user", row.input),), choices=LABELS) for row in rows(6, start=300)]
    local = LocalModel(tmp_path / "seed-0", "main", "cpu", 8, "student")
    said = local.answer(asked, Sampling(temperature=0, max_tokens=8))
    assert [answer.text for answer in said] == [row.output for row in rows(6, start=300)]


@pytest.mark.slow
def test_a_model_learns_to_write_and_to_end_what_it_writes(tokenizer, tmp_path):
    told = [Example(f"r{n}", f"number {n % 7}", f"parcel {n % 7}", f"r{n}", "train", "unlabeled") for n in range(112)]
    some = TrainingRows(lambda: iter(told), lambda: iter(told[:14]))
    source = Pretrained(family("qwen3", tokenizer), tokenizer, "m")

    train_student(student(epochs=40, batch=16), some, tmp_path / "seed-0", 0, quiet, lambda: source)

    local = LocalModel(tmp_path / "seed-0", "main", "cpu", 8, "student")
    said = local.answer(
        [Prompt("p", (Message("user", row.input),)) for row in told[:7]], Sampling(temperature=0, max_tokens=20)
    )
    assert [(answer.text, answer.finish_reason) for answer in said] == [(row.output, "stop") for row in told[:7]]


def test_what_cannot_be_taught_is_refused_in_one_line(tokenizer):
    from tokenizers import Tokenizer, models

    def refusal(given, labels=LABELS) -> str:
        with pytest.raises(BadInput) as caught:
            student_tokenizer(Pretrained(None, given, "init.model = m"), labels)
        return str(caught.value)

    unigram = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))
    pieces = hf.PreTrainedTokenizerFast(tokenizer_object=unigram, eos_token="</s>")
    endless = by_bytes()
    endless.eos_token = None
    failing = by_bytes()
    failing.chat_template = "{{ raise_exception('Conversation roles must alternate') }}"

    assert refusal(pieces) == (
        "init.model = m: a tokenizer of type 'Unigram' takes no labels; choose a model with a BPE tokenizer, or init: "
        "{kind: dense}"
    )
    assert refusal(endless) == "init.model = m: the tokenizer has no end token; choose a model that ends its answers"
    assert refusal(failing) == (
        "init.model = m: its chat template fails: Conversation roles must alternate; choose another model"
    )
