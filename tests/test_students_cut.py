from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from understudy.data.errors import BadInput
from understudy.data.rows import Example
from understudy.students.batches import render
from understudy.students.build import build_dense
from understudy.students.config import Dense, Layers, StudentRecipe, Train
from understudy.students.cut import Larger, cut_model, cut_tokenizer, fitting, importance
from understudy.students.hub import Pretrained, student_tokenizer
from understudy.students.objectives import state_loss
from understudy.students.tokenizer import label_tokens, train_tokenizer
from understudy.students.trainer import train_student
from understudy.students.weights import TrainingRows

from .test_students_hub import by_bytes, family

LABELS = ("delivery", "refund")
TEXTS = [
    f"{opening} {what} {number}"
    for number in range(12)
    for opening in ("hello there", "Good morning", "listen")
    for what in ("where is my parcel", "give me my money back", "the courier was late", "I want a refund")
]


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Label: {text}"}]


@pytest.fixture(scope="module")
def larger() -> Larger:
    tokenizer = train_tokenizer(TEXTS, 420, LABELS, fold_case=False)
    dense = Dense(parameters="0.7M", layers=3, intermediate=3)
    return Larger(build_dense(dense, tokenizer, LABELS, 0).eval(), tokenizer, "teacher lead", asked)


def layers(**given: object) -> Layers:
    return Layers.model_validate({"kind": "layers", "teacher": "lead", "parameters": "1M", **given})


def same_tokenizer(larger: Larger, labels: tuple[str, ...] = LABELS):
    return cut_tokenizer(larger, TEXTS, 65536, labels, fold_case=False)


def logits(model, tokenizer, texts=TEXTS[:8]) -> torch.Tensor:
    batch = tokenizer(render(tokenizer, texts), return_tensors="pt", padding=True, add_special_tokens=False)
    mask = batch["attention_mask"]
    with torch.inference_mode():
        output = model(batch["input_ids"], attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0))
    return output.logits[:, -1, label_tokens(tokenizer, LABELS)]


def test_a_student_with_room_for_everything_says_what_the_larger_model_says(larger):
    tokenizer = same_tokenizer(larger)

    student = cut_model(larger, tokenizer, layers(layers=3), LABELS, TEXTS[:40])

    torch.testing.assert_close(
        logits(student.eval(), tokenizer), logits(larger.model, larger.tokenizer), atol=1e-5, rtol=1e-5
    )


def test_the_parts_that_do_nothing_go_first(larger):
    idle = build_dense(Dense(parameters="0.7M", layers=3, intermediate=3), larger.tokenizer, LABELS, 1).eval()
    first, second, third = idle.model.layers
    neurons = idle.config.intermediate_size
    with torch.no_grad():
        second.self_attn.o_proj.weight.zero_()
        second.mlp.down_proj.weight.zero_()
        for layer in (first, third):
            layer.mlp.down_proj.weight[:, : neurons // 2] = 0
    whole = Larger(idle, larger.tokenizer, "teacher lead", asked)
    tokenizer = same_tokenizer(whole)
    without = 2 * (neurons // 2) * 3 * idle.config.hidden_size
    second_layer = sum(weight.numel() for weight in second.parameters())
    room = idle.num_parameters() - without - second_layer

    student = cut_model(whole, tokenizer, layers(layers=2, parameters=f"{room / 1e6 + 0.01:.2f}M"), LABELS, TEXTS[:40])

    assert student.config.num_hidden_layers == 2
    assert student.num_parameters() < idle.num_parameters() - second_layer
    torch.testing.assert_close(logits(student.eval(), tokenizer), logits(idle, larger.tokenizer), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", ["0.3M", "0.4M", "0.5M"])
def test_a_student_is_no_larger_than_asked_for_and_uses_its_room(larger, size):
    tokenizer = cut_tokenizer(larger, TEXTS, 512, LABELS, fold_case=True)

    student = cut_model(larger, tokenizer, layers(parameters=size), LABELS, TEXTS[:40])

    asked = float(size[:-1]) * 1e6
    assert student.num_parameters() <= asked
    everything = student.config.intermediate_size == larger.model.config.intermediate_size
    assert everything or student.num_parameters() > 0.98 * asked


def test_tokens_that_the_rows_use_most_are_kept_and_every_text_can_still_be_spelt(larger):
    tokenizer = cut_tokenizer(larger, ["my parcel my parcel"] * 9 + ["money"], 290, LABELS, fold_case=False)

    assert len(tokenizer) <= 290 + len(LABELS) < len(larger.tokenizer)
    assert tokenizer.tokenize("my parcel") == larger.tokenizer.tokenize("my parcel")
    assert len(tokenizer.tokenize("courier")) > len(larger.tokenizer.tokenize("courier"))
    for text in ("the courier was late", "déjà vu 🎭", "Good morning"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]).strip() == text


def test_a_student_of_labels_reads_upper_and_lower_case_alike(larger):
    tokenizer = cut_tokenizer(larger, TEXTS, 400, LABELS, fold_case=True)

    assert tokenizer("GOOD Morning")["input_ids"] == tokenizer("good morning")["input_ids"]
    assert tokenizer.decode(label_tokens(tokenizer, LABELS)[:1]) == "delivery"


def test_a_label_that_the_larger_model_does_not_know_begins_as_the_mean_of_its_words(larger):
    labels = ("late_courier", "refund")
    tokenizer = same_tokenizer(larger, labels)

    student = cut_model(larger, tokenizer, layers(layers=3), labels, TEXTS[:40])

    words = larger.tokenizer("late courier", add_special_tokens=False)["input_ids"]
    vectors = larger.model.get_input_embeddings().weight
    begun = student.get_input_embeddings().weight[label_tokens(tokenizer, labels)]
    torch.testing.assert_close(begun[0], vectors[words].mean(0))
    torch.testing.assert_close(begun[1], vectors[label_tokens(larger.tokenizer, LABELS)[1]])


def test_heads_that_share_keys_are_left_out_together():
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = train_tokenizer(TEXTS, 420, LABELS, fold_case=False)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=32,
        tie_word_embeddings=True,
    )
    model = Qwen3ForCausalLM(config).eval()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.zero_()
            layer.self_attn.o_proj.weight[:, :64] = 0
            layer.self_attn.o_proj.weight[:, 128:] = 0
    whole = Larger(model, tokenizer, "teacher lead", asked)
    ours = same_tokenizer(whole)

    student = cut_model(whole, ours, layers(parameters="0.3M", layers=2), LABELS, TEXTS[:20])

    assert (student.config.num_key_value_heads, student.config.num_attention_heads) == (1, 2)
    torch.testing.assert_close(logits(student.eval(), ours), logits(model, tokenizer), atol=1e-5, rtol=1e-5)


def test_importance_does_not_depend_on_how_rows_are_batched(larger):
    alone = importance(larger.model, larger.tokenizer, TEXTS[:33])
    padded = importance(larger.model, larger.tokenizer, ["x", *TEXTS[1:33], TEXTS[0]][1:])

    for one, other in zip(alone, padded, strict=True):
        torch.testing.assert_close(one.neurons_F, other.neurons_F, rtol=1e-4, atol=1e-6)
        assert one.change == pytest.approx(other.change, rel=1e-4)


def test_states_are_what_the_larger_model_has_before_it_answers_however_they_are_batched(larger):
    texts = ["where is my parcel", "I want a refund, and I want it now please", "late"]

    together = larger.states(texts)

    for text, state in zip(texts, together, strict=True):
        prompt = f"<|user|>Label: {text}<|assistant|>"
        ids = larger.tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            alone = larger.model(ids, output_hidden_states=True).hidden_states[-1][0, -1]
        torch.testing.assert_close(torch.tensor(state), alone, atol=1e-5, rtol=1e-5)


def test_a_student_that_has_the_wanted_state_loses_nothing_and_a_silent_one_all():
    wanted = torch.randn(4, 8)

    assert state_loss(wanted.clone(), wanted).item() == 0
    assert state_loss(torch.zeros(4, 8), wanted).item() == pytest.approx(1)


def test_a_cut_student_is_trained_kept_and_loaded_like_any_other(larger, tmp_path):
    def rows() -> list[Example]:
        return [
            Example(f"r{n}", text, LABELS["money" in text or "refund" in text], f"r{n}", "train", "unlabeled")
            for n, text in enumerate(TEXTS)
        ]

    student = StudentRecipe(init=layers(parameters="0.4M"), train=Train(epochs=6, batch=16))
    given = TrainingRows(lambda: iter(rows()), lambda: iter(rows()), LABELS)

    result = train_student(student, given, tmp_path / "s", 0, lambda *_: None, lambda: larger)

    assert result["validation_agreement"] > 95
    assert result["parameters"] <= 400_000
    model, tokenizer = (kind.from_pretrained(tmp_path / "s") for kind in (AutoModelForCausalLM, AutoTokenizer))
    said = logits(model, tokenizer, ["where is my parcel", "give me my money back"]).argmax(-1)
    assert [LABELS[number] for number in said] == ["delivery", "refund"]


def test_more_layers_than_there_are_is_refused(larger):
    with pytest.raises(BadInput) as refused:
        fitting(larger.model.config, layers(layers=4), 400)

    assert str(refused.value) == "init.layers = 4, but lead has 3; ask for fewer"


def test_a_count_that_cannot_hold_the_width_is_refused(larger):
    with pytest.raises(BadInput) as refused:
        fitting(larger.model.config, layers(layers=3, parameters="0.3M"), 3000)

    hidden = larger.model.config.hidden_size
    assert str(refused.value) == (
        f"init.parameters = 0.3M cannot hold 3,000 tokens and 3 layers that are {hidden} wide, as lead is; raise "
        "init.parameters, or lower init.vocabulary or init.layers"
    )


def test_a_model_that_cannot_be_cut_is_refused(larger):
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=1, intermediate_size=32
    )

    with pytest.raises(BadInput) as refused:
        Larger(LlamaForCausalLM(config), larger.tokenizer, "teacher lead", asked)

    assert str(refused.value) == (
        "teacher lead: is a 'llama' model, and layers are cut from Qwen3 models; use init: {kind: dense}"
    )


def test_a_tokenizer_that_is_no_byte_level_bpe_is_refused(larger):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    foreign = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab={"a": 0}, merges=[])))

    with pytest.raises(BadInput) as refused:
        Larger(larger.model, foreign, "teacher lead", asked)

    assert str(refused.value) == (
        "teacher lead: its tokenizer is no byte-level BPE, which tokens are cut from; use init: {kind: dense}"
    )


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def foreign(request) -> Larger:
    """A Qwen3 model with turn marks of its own, behind its vocabulary, as the library's models have them."""
    tokenizer = by_bytes()
    model = family("qwen3", tokenizer, tie_word_embeddings=request.param, bos_token_id=0)
    return Larger(model.eval(), tokenizer, "teacher lead", asked)


def test_turn_marks_begin_as_what_the_larger_model_has_in_their_place(foreign):
    tokenizer = cut_tokenizer(foreign, TEXTS, 512, LABELS, fold_case=False)

    student = cut_model(foreign, tokenizer, layers(layers=2), LABELS, TEXTS[:20])

    theirs, ours = foreign.tokenizer, tokenizer.get_vocab()
    opening, closing = ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")
    expected = {"<|user|>": opening, "<|assistant|>": closing, "<|end|>": "<|im_end|>", "Ġparcel": " parcel"}
    tables = [
        (student.get_input_embeddings().weight, foreign.model.get_input_embeddings().weight),
        (student.get_output_embeddings().weight, foreign.model.get_output_embeddings().weight),
    ]
    for mine, whole in tables:
        for name, said in expected.items():
            mean = whole[theirs(said, add_special_tokens=False)["input_ids"]].mean(0)
            torch.testing.assert_close(mine[ours[name]], mean)
    assert render(tokenizer, ["hi"]) == ["<|user|>hi<|assistant|>"]
    assert not {"<|im_start|>", "<|im_end|>", "<|endoftext|>"} & set(ours)
    assert (student.config.eos_token_id, student.config.bos_token_id) == (ours["<|end|>"], None)
    assert student.config.tie_word_embeddings == foreign.model.config.tie_word_embeddings


def test_a_second_table_of_tokens_counts(foreign):
    tokenizer = cut_tokenizer(foreign, TEXTS, 512, LABELS, fold_case=False)

    student = cut_model(foreign, tokenizer, layers(parameters="0.3M", layers=2), LABELS, TEXTS[:20])

    assert student.num_parameters() <= 300_000
    tables = 1 if student.config.tie_word_embeddings else 2
    with pytest.raises(BadInput):
        fitting(foreign.model.config, layers(parameters="0.3M", layers=2), 4700 // tables)
    fitting(foreign.model.config, layers(parameters="0.3M", layers=2), 3000 // tables)


def test_a_model_that_knows_no_turns_is_cut_all_the_same():
    tokenizer = by_bytes()
    tokenizer.chat_template = None
    model = family("qwen3", tokenizer).eval()
    larger = Larger(model, student_tokenizer(Pretrained(model, tokenizer, "m"), ()), "teacher lead", asked)
    ours = cut_tokenizer(larger, TEXTS, 512, LABELS, fold_case=True)

    student = cut_model(larger, ours, layers(), LABELS, TEXTS[:20])

    assert len(larger.states(["hi"])[0]) == student.config.hidden_size
    end = model.get_input_embeddings().weight[tokenizer.eos_token_id]
    torch.testing.assert_close(student.get_input_embeddings().weight[ours.convert_tokens_to_ids("<|user|>")], end)


@pytest.mark.slow
def test_a_student_cut_from_a_foreign_model_is_trained_like_any_other(foreign, tmp_path):
    def rows() -> list[Example]:
        return [
            Example(f"r{n}", text, LABELS["money" in text or "refund" in text], f"r{n}", "train", "unlabeled")
            for n, text in enumerate(TEXTS)
        ]

    student = StudentRecipe(init=layers(parameters="0.4M"), train=Train(epochs=8, batch=16))
    given = TrainingRows(lambda: iter(rows()), lambda: iter(rows()), LABELS)

    result = train_student(student, given, tmp_path / "s", 0, lambda *_: None, lambda: foreign)

    assert result["validation_agreement"] > 95
    model, tokenizer = (kind.from_pretrained(tmp_path / "s") for kind in (AutoModelForCausalLM, AutoTokenizer))
    said = logits(model, tokenizer, ["where is my parcel", "give me my money back"]).argmax(-1)
    assert [LABELS[number] for number in said] == ["delivery", "refund"]
