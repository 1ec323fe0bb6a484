import copy
from pathlib import Path
from typing import Any

import pytest

from understudy.data.rows import Failed, Message, Prompt
from understudy.data.teacher import Sampling
from understudy.teachers.rendering import Rendered, Renderer, stop_tokens

STORIES = Path(__file__).resolve().parents[2] / "shared" / "models" / "stories260K"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Bytes and a few merges, so that an emoji is four tokens."""
    import transformers as hf
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bytewise = Tokenizer(models.BPE())
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["</s>"],
        show_progress=False,
    )
    bytewise.train_from_iterator(["the parcel is late", "the refund is late"] * 9, trainer)
    return hf.PreTrainedTokenizerFast(tokenizer_object=bytewise, eos_token="</s>")


def ask(text: str, **fields: Any) -> Prompt:
    return Prompt("p", (Message("user", text),), **fields)


def test_the_seed_is_of_the_text_and_the_sample_alone(tokenizer: Any):
    renderer = Renderer(tokenizer, None, None)

    def seed(prompt: Prompt, **sampling: Any) -> int:
        row = renderer.render(prompt, Sampling(**sampling))
        assert isinstance(row, Rendered)
        return row.seed

    same = seed(ask("the parcel"))
    assert same == seed(ask("the parcel", choices=("a", "b")), max_tokens=9, temperature=1.0)
    assert same != seed(ask("the parcel", sample=1))
    assert same != seed(ask("the parcels"))
    assert 0 <= same < 2**60


def test_tokens_in_the_middle_of_a_text_write_what_they_write_there(tokenizer: Any):
    renderer = Renderer(tokenizer, None, None)
    ids = tokenizer("the parcel is late</s>")["input_ids"]

    assert "".join(map(renderer.token_text, ids)) == "the parcel is late</s>"


def test_a_piece_of_a_character_is_spelt_as_the_tokenizer_spells_it(tokenizer: Any):
    renderer = Renderer(tokenizer, None, None)
    pieces = tokenizer("\U0001f44d")["input_ids"]

    spelt = [renderer.token_text(piece) for piece in pieces]

    assert len(pieces) == 4
    assert spelt == tokenizer.convert_ids_to_tokens(pieces)
    assert len(set(spelt)) == 4  # where decoding each would make them all the same


@pytest.mark.skipif(not STORIES.is_dir(), reason="the pretrained story model is not beside this checkout")
def test_a_token_of_a_sentencepiece_vocabulary_keeps_its_space():
    import transformers as hf

    tokenizer = hf.AutoTokenizer.from_pretrained(STORIES)
    renderer = Renderer(tokenizer, None, None)
    ids = tokenizer("Once upon a time, Lily saw a \u2603.", add_special_tokens=False)["input_ids"]

    spelt = [renderer.token_text(token) for token in ids]

    assert tokenizer.decode(ids[1:2]) != spelt[1]  # alone, it would lose its space
    assert "".join(spelt).startswith(" Once upon a time, Lily saw a ")
    assert spelt[-4:] == ["<0xE2>", "<0x98>", "<0x83>", "."]


def test_choices_take_the_room_of_the_longest_and_of_an_end(tokenizer: Any):
    prompt = ask("x" * 20, choices=("late", "refund"))
    longest = max(len(tokenizer(choice)["input_ids"]) for choice in prompt.choices)
    assert longest > 1

    fits, refused = (Renderer(tokenizer, 20 + room, None).render(prompt, Sampling()) for room in (longest + 1, longest))

    assert isinstance(fits, Rendered)
    assert refused == Failed(
        "p",
        "too_long",
        f"20 tokens of prompt and {longest + 1} of answer do not fit the context of {20 + longest}; "
        "shorten the prompt or lower max_tokens",
    )


@pytest.mark.parametrize(
    ("choices", "labels"), [(("late", "refund"), {"late": 5, "refund": 6}), (("t", "r"), {})], ids=["labels", "letters"]
)
def test_choices_of_one_token_each_take_the_room_of_one(tokenizer: Any, choices: tuple[str, ...], labels: Any):
    prompt = ask("x" * 20, choices=choices)

    assert isinstance(Renderer(tokenizer, 21, labels).render(prompt, Sampling()), Rendered)
    assert isinstance(Renderer(tokenizer, 20, labels).render(prompt, Sampling()), Failed)


TURNS = {
    "chatml": ("<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n", "<|im_start|>assistant\n"),
    "trimming": ("<h>{{ m.role }}</h>\n\n{{ m.content | trim }}<|eot|>", "<h>assistant</h>\n\n"),
    "spaced": ("{{ '[INST] ' ~ m.content ~ ' [/INST]' if m.role == 'user' else m.content ~ '</s>' }}", ""),
    "unended": ("<|{{ m.role }}|>{{ m.content }}", "<|assistant|>"),
    "plain": ("{{ m.role }}: {{ m.content }}\n", "assistant: "),
}
MARKS = ["<|im_end|>", "<|im_start|>", "<|eot|>", "[/INST]", "<|assistant|>"]


def templated(tokenizer: Any, name: str) -> Any:
    turn, prompt = TURNS[name]
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(MARKS)
    looped = "{% for m in messages %}" + turn + "{% endfor %}"
    tokenizer.chat_template = looped + "{% if add_generation_prompt %}" + prompt + "{% endif %}"
    return tokenizer


@pytest.mark.parametrize(
    ("template", "before", "end"),
    [
        ("chatml", "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n", "<|im_end|>"),
        ("trimming", "<h>system</h>\n\nBe brief.<|eot|><h>user</h>\n\n", "<|eot|>"),
        ("spaced", "Be brief.</s>[INST] ", "[/INST]"),
        ("unended", "<|system|>Be brief.<|user|>", "<|assistant|>"),
        ("plain", "system: Be brief.\nuser: ", ""),
    ],
)
def test_an_open_message_ends_the_text_and_the_mark_behind_its_turn_ends_the_answer(
    tokenizer: Any, template: str, before: str, end: str
):
    model = templated(tokenizer, template)
    renderer = Renderer(model, None, None)

    def opened(content: str) -> Rendered:
        messages = (Message("system", "Be brief."), Message("user", content))
        row = renderer.render(Prompt("p", messages, open=True), Sampling())
        assert isinstance(row, Rendered)
        return row

    assert opened("").text == before.rstrip(" ")  # the space is part of the first word
    assert opened("where is ").text == before + "where is "
    assert opened("GoesOnHere and").text == before + "GoesOnHere and"
    assert opened("").ids == model(before.rstrip(" "))["input_ids"]
    assert model.convert_ids_to_tokens(opened("").ends) == [end] * bool(end)


def test_a_message_that_is_not_open_has_no_end_of_its_own(tokenizer: Any):
    row = Renderer(templated(tokenizer, "unended"), None, None).render(ask("where"), Sampling())

    assert isinstance(row, Rendered)
    assert (row.text, row.ends) == ("<|user|>where<|assistant|>", [])


def test_without_a_template_an_open_message_is_gone_on_with_as_any_other_is(tokenizer: Any):
    opened, closed = (Renderer(tokenizer, None, None).render(ask("where", open=o), Sampling()) for o in (True, False))

    assert isinstance(opened, Rendered)
    assert isinstance(closed, Rendered)
    assert (opened.text, opened.ids, opened.ends) == (closed.text, closed.ids, [])


def test_a_template_that_leaves_the_open_message_out_is_a_failed_row(tokenizer: Any):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = "{{ messages[0].role }}"

    assert Renderer(tokenizer, None, None).render(ask("where", open=True), Sampling()) == Failed(
        "p",
        "template",
        "the prompt cannot be rendered: the chat template leaves out the message to go on with",
    )


def test_stop_tokens_are_the_models_and_the_tokenizers(tokenizer: Any):
    end = tokenizer.eos_token_id

    assert stop_tokens(None, tokenizer) == [end]
    assert stop_tokens(7, tokenizer) == sorted([7, end])
    assert stop_tokens([7, 9, end], tokenizer) == sorted([7, 9, end])
