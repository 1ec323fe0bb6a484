import asyncio
import json
import shutil
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from understudy.data.errors import BadInput, TeacherUnreachable
from understudy.data.rows import Answer, Failed, Message, Prompt
from understudy.data.teacher import Sampling, Teacher
from understudy.teachers import transformers as transformers_teacher
from understudy.teachers.transformers import TransformersRecipe, TransformersTeacher, check_model_folder

STORIES = Path(__file__).resolve().parents[2] / "shared" / "models" / "stories260K"
INSTRUCTION = "Which team should answer this customer message? Say billing, delivery or other, and nothing else."
LINES = [
    INSTRUCTION,
    "where is my parcel, it was due on monday",
    "please refund the second invoice of april",
    "billing delivery other account late refund invoice parcel",
    "the package came and the lid was broken",
    "i was charged twice for the same order and nobody answers",
]
TEMPLATE = (
    "{% for message in messages %}"
    "{% if 'unspeakable' in message.content %}{{ raise_exception('no such words here') }}{% endif %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LABELS = ("billing", "delivery", "billing account", "other")
CODES = ("<A>", "<B>", "<C>")
STOPS = (40, 41, 42, 43, 44, 45, 46, 47, 48, 49)
HUB_FILE = "/{repo_id}/resolve/{revision}/{filename}"
GREEDY = Sampling(temperature=0.0, max_tokens=24)
DRAWN = Sampling(temperature=1.0, max_tokens=24)


def make_model(
    folder: Path, *, template: str | None = TEMPLATE, context: int = 256, sliding: int | None = None
) -> Path:
    """A random model with a tokenizer of its own; its weights are large, so that it is sure of its nonsense."""
    import torch
    import transformers as hf
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    fast = hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", additional_special_tokens=["<|im_start|>"]
    )
    fast.add_tokens(list(CODES))
    fast.chat_template = template
    window = {"use_sliding_window": True, "sliding_window": sliding, "max_window_layers": 0} if sliding else {}
    torch.manual_seed(11)
    model = hf.Qwen3ForCausalLM(
        hf.Qwen3Config(
            vocab_size=len(fast),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=context,
            initializer_range=0.25,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=fast.eos_token_id,
            **window,
        )
    )
    model.generation_config.eos_token_id = [fast.eos_token_id, *STOPS]
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def untemplated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "plain", template=None)


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "lead")


def ask(text: str, *, id: str = "p", choices: tuple[str, ...] = (), sample: int = 0, system: str = "") -> Prompt:
    before = (Message("system", system),) if system else ()
    return Prompt(id, (*before, Message("user", text)), choices, sample=sample)


def prompts(count: int, *, choices: tuple[str, ...] = (), system: str = INSTRUCTION) -> list[Prompt]:
    """Prompts of different lengths, with a beginning that all share unless ``system`` is empty."""
    texts = [" ".join([LINES[1 + i % 5]] * (1 + i % 3)) + f" {i}" for i in range(count)]
    return [ask(text, id=f"p{i}", choices=choices, system=system) for i, text in enumerate(texts)]


def answers(teacher: TransformersTeacher, asked: list[Prompt], sampling: Sampling = GREEDY) -> list[Answer | Failed]:
    async def together() -> list[Answer | Failed]:
        return await asyncio.gather(*(teacher.answer(prompt, sampling) for prompt in asked))

    return asyncio.run(together())


def said(teacher: TransformersTeacher, asked: list[Prompt], sampling: Sampling = GREEDY) -> list[str]:
    return [answer.text for answer in answers(teacher, asked, sampling) if isinstance(answer, Answer)]


class Reference:
    """The same model by the slow way that is plainly right: one whole sequence at a time, no cache, no padding."""

    def __init__(self, folder: Path) -> None:
        import transformers as hf

        self.tokenizer = hf.AutoTokenizer.from_pretrained(folder)
        self.model = hf.AutoModelForCausalLM.from_pretrained(folder).eval()
        self.stops = [self.tokenizer.eos_token_id, *STOPS]

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def prompt(self, prompt: Prompt) -> list[int]:
        messages = [{"role": message.role, "content": message.content} for message in prompt.messages]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self.encode(text)

    def logps(self, ids: list[int]):
        """Natural log-probabilities after each position: (positions, vocabulary)."""
        import torch

        with torch.no_grad():
            return self.model(torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(-1)

    def greedy(self, ids: list[int], most: int) -> list[int]:
        written: list[int] = []
        while len(written) < most and not (written and written[-1] in self.stops):
            written.append(int(self.logps(ids + written)[-1].argmax()))
        return written

    def whole(self, prompt: Prompt, choice: str) -> float:
        """Log-probability of the choice and of an end after it."""
        ids, spelt = self.prompt(prompt), self.encode(choice)
        logps = self.logps(ids + spelt)
        total = sum(float(logps[len(ids) - 1 + i, token]) for i, token in enumerate(spelt))
        return total + float(logps[-1, self.stops].logsumexp(-1))


def normalised(values: list[float]) -> list[float]:
    import torch

    return torch.tensor(values, dtype=torch.float64).log_softmax(-1).tolist()


def test_it_is_a_teacher_named_by_its_content(folder: Path):
    teacher = TransformersTeacher(folder)

    assert isinstance(teacher, Teacher)
    assert teacher.name.startswith("tiny-")
    assert teacher.name.endswith("@main")
    assert teacher.identity == {"kind": "transformers", "model": teacher.name[:-5], "revision": "main"}
    assert TransformersTeacher(folder, kind="embedded").identity["kind"] == "embedded"
    assert TransformersTeacher("org/model", revision="v1").identity["model"] == "org/model"


def test_changed_weights_are_another_model_and_a_changed_place_is_not(copied: Path, tmp_path: Path):
    before = TransformersTeacher(copied).identity
    moved = shutil.copytree(copied, tmp_path / "elsewhere" / "lead")
    weights = bytearray((copied / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copied / "model.safetensors").write_bytes(weights)

    assert TransformersTeacher(moved).identity == before
    assert TransformersTeacher(copied).identity != before


def test_a_changed_chat_template_is_another_model(copied: Path):
    before = TransformersTeacher(copied).identity
    (copied / "chat_template.jinja").write_text("{{ messages[0].content }}")

    assert TransformersTeacher(copied).identity != before


def test_greedy_text_is_that_of_a_slow_reference(folder: Path):
    reference, asked = Reference(folder), prompts(6)
    replies = answers(TransformersTeacher(folder), asked)

    for prompt, reply in zip(asked, replies, strict=True):
        assert isinstance(reply, Answer)
        written = reference.greedy(reference.prompt(prompt), GREEDY.max_tokens)
        stopped = written[-1] in reference.stops
        expected = reference.tokenizer.decode(written[:-1] if stopped else written, skip_special_tokens=True)
        assert reply.text == expected.strip()
        assert reply.finish_reason == ("stop" if stopped else "length")
        assert reply.input_tokens == len(reference.prompt(prompt))
        assert reply.output_tokens == len(written)


@pytest.mark.parametrize("system", [INSTRUCTION, ""], ids=["shared beginning", "nothing shared"])
@pytest.mark.parametrize("sampling", [GREEDY, DRAWN, Sampling(temperature=0.8, top_p=0.9, max_tokens=24)], ids=str)
def test_the_company_of_a_prompt_does_not_change_its_answer(folder: Path, system: str, sampling: Sampling):
    asked = prompts(16, system=system)
    alone, together = TransformersTeacher(folder, batch=1), TransformersTeacher(folder, batch=8)

    one, many = answers(alone, asked, sampling), answers(together, asked, sampling)

    assert one == many
    assert (alone.batches, together.batches) == (16, 2)
    lengths = {answer.output_tokens for answer in one if isinstance(answer, Answer)}
    assert len(lengths) > 2  # rows ended at different steps, and some were dropped on the way


def test_a_sliding_window_does_not_count_padding(tmp_path: Path):
    model = make_model(tmp_path / "sliding", sliding=24)
    asked = prompts(8)

    assert said(TransformersTeacher(model, batch=1), asked) == said(TransformersTeacher(model, batch=8), asked)


def test_draws_are_repeated_by_another_process_and_differ_between_samples(folder: Path):
    asked = [ask(LINES[1], id=f"s{i}", sample=i) for i in range(6)]

    first = said(TransformersTeacher(folder), asked, DRAWN)
    again = said(TransformersTeacher(folder), asked[::-1], DRAWN)[::-1]

    assert first == again
    assert len(set(first)) == 6


def test_a_draw_does_not_depend_on_the_ceiling(folder: Path):
    teacher, prompt = TransformersTeacher(folder), ask(LINES[2], sample=3)
    spelling = Sampling(temperature=1.0, max_tokens=5, logprobs=1)

    (short,), (long,) = (
        answers(teacher, [prompt], s) for s in (spelling, spelling.model_copy(update={"max_tokens": 40}))
    )

    assert isinstance(short, Answer)
    assert isinstance(long, Answer)
    assert [token.text for token in long.tokens][: len(short.tokens)] == [token.text for token in short.tokens]


@pytest.mark.parametrize("top_p", [1.0, 0.6])
@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_tokens_are_drawn_as_often_as_their_probability_says(folder: Path, temperature: float, top_p: float):
    reference, draws = Reference(folder), 2000
    asked = [ask(LINES[3], id=f"s{i}", sample=i) for i in range(draws)]
    sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=1, logprobs=1)

    counted = Counter(
        reply.tokens[0].text if reply.tokens else "the end"
        for reply in answers(TransformersTeacher(folder, batch=200), asked, sampling)
        if isinstance(reply, Answer)
    )

    probs = (reference.logps(reference.prompt(asked[0]))[-1] / temperature).softmax(-1)
    ordered, kept = probs.sort(descending=True), 0.0
    expected: Counter[str] = Counter()
    for value, token in zip(ordered.values.tolist(), ordered.indices.tolist(), strict=True):
        if kept < top_p:
            expected["the end" if token in reference.stops else reference.tokenizer.decode([token])] += value
            kept += value
    likely = {text for text, value in expected.items() if value / kept > 0.01}
    assert likely <= set(counted) <= set(expected)
    distance = sum(abs(counted[text] / draws - value / kept) for text, value in expected.items()) / 2
    assert distance < 0.12


def test_every_token_comes_with_its_likeliest_alternatives(folder: Path):
    reference, prompt = Reference(folder), ask(LINES[4], sample=1)

    (reply,) = answers(TransformersTeacher(folder), [prompt], Sampling(temperature=2.0, max_tokens=12, logprobs=4))

    assert isinstance(reply, Answer)
    assert "".join(token.text for token in reply.tokens).strip() == reply.text
    assert len(reply.tokens) == reply.output_tokens - (reply.finish_reason == "stop")
    logps = reference.logps(reference.prompt(prompt))[-1]
    best = logps.topk(4)
    top = reply.tokens[0].top
    assert [text for text, _ in top] == [reference.tokenizer.decode([token]) for token in best.indices]
    assert [value for _, value in top] == pytest.approx(best.values.tolist(), abs=1e-4)
    spelt = {reference.tokenizer.decode([token]): float(logp) for token, logp in enumerate(logps)}
    assert reply.tokens[0].logprob == pytest.approx(spelt[reply.tokens[0].text], abs=1e-4)


@pytest.mark.parametrize("begun", ["", "where is"])
def test_an_open_message_is_gone_on_with_as_a_slow_reference_does_alone_and_in_company(folder: Path, begun: str):
    reference = Reference(folder)
    opened = [Prompt(f"o{i}", (Message("system", f"{i}"), Message("user", begun)), open=True) for i in range(4)]
    closed = prompts(4)
    mixed = [prompt for pair in zip(opened, closed, strict=True) for prompt in pair]

    together = answers(TransformersTeacher(folder, batch=8), mixed)

    assert together == answers(TransformersTeacher(folder, batch=1), mixed)
    for prompt, reply in zip(opened, together[::2], strict=True):
        assert isinstance(reply, Answer)
        text = f"<|im_start|>system\n{prompt.messages[0].content}<|im_end|>\n<|im_start|>user\n{begun}"
        written = reference.greedy(reference.encode(text), GREEDY.max_tokens)
        stopped = written[-1] in reference.stops
        expected = reference.tokenizer.decode(written[:-1] if stopped else written, skip_special_tokens=True)
        assert (reply.text, reply.output_tokens) == (expected.strip(), len(written))
        assert reply.finish_reason == ("stop" if stopped else "length")


def test_an_open_turn_ends_at_the_mark_that_its_template_ends_it_with(tmp_path: Path):
    model = make_model(tmp_path / "marked", template="{% for m in messages %}{{ m.content }}<A>{% endfor %}")
    sampling = Sampling(temperature=2.0, max_tokens=60)
    opened, closed = (
        [Prompt(f"s{i}", (Message("user", LINES[1]),), sample=i, open=is_open) for i in range(128)]
        for is_open in (True, False)
    )

    told = answers(TransformersTeacher(model, batch=64), [*opened, *closed], sampling)

    ours, theirs = (
        " ".join(reply.text for reply in part if isinstance(reply, Answer)) for part in (told[:128], told[128:])
    )
    assert "<A>" in theirs
    assert "<A>" not in ours
    assert "<B>" in ours


def test_no_alternatives_are_recorded_unless_asked_for(folder: Path):
    (reply,) = answers(TransformersTeacher(folder), [ask(LINES[1])])

    assert isinstance(reply, Answer)
    assert reply.tokens == ()
    assert reply.scores is None


@pytest.mark.parametrize("system", [INSTRUCTION, ""], ids=["shared beginning", "nothing shared"])
def test_choices_of_several_tokens_get_their_exact_probability(folder: Path, system: str):
    reference, asked = Reference(folder), prompts(7, choices=LABELS, system=system)

    for batch in (1, 5, 32):
        for prompt, reply in zip(asked, answers(TransformersTeacher(folder, batch=batch), asked), strict=True):
            assert isinstance(reply, Answer)
            assert reply.scores is not None
            expected = normalised([reference.whole(prompt, choice) for choice in LABELS])
            assert list(reply.scores) == list(LABELS)
            assert list(reply.scores.values()) == pytest.approx(expected, abs=1e-4)
            assert reply.text == max(LABELS, key=reply.scores.__getitem__)
            assert reply.finish_reason == "stop"


def test_choices_of_one_token_are_decided_by_that_token_alone(folder: Path):
    reference, prompt = Reference(folder), ask(LINES[1], choices=CODES)

    (reply,) = answers(TransformersTeacher(folder), [prompt])

    logps = reference.logps(reference.prompt(prompt))[-1]
    expected = normalised([float(logps[reference.tokenizer.convert_tokens_to_ids(code)]) for code in CODES])
    assert isinstance(reply, Answer)
    assert reply.scores is not None
    assert list(reply.scores.values()) == pytest.approx(expected, abs=1e-4)
    assert reply.output_tokens == 1


def test_an_empty_choice_is_scored_as_stopping_at_once(folder: Path):
    reference, prompt = Reference(folder), ask(LINES[1], choices=("", "other"))

    (reply,) = answers(TransformersTeacher(folder), [prompt])

    assert isinstance(reply, Answer)
    assert reply.scores is not None
    expected = normalised([reference.whole(prompt, choice) for choice in ("", "other")])
    assert list(reply.scores.values()) == pytest.approx(expected, abs=1e-4)


def test_a_choice_that_would_merge_with_the_prompt_is_spelt_by_itself(untemplated: Path):
    reference, prompt = Reference(untemplated), ask("please send it to bill", choices=("ing", "other"))
    ids = reference.encode("please send it to bill")
    assert reference.encode("please send it to billing")[: len(ids)] != ids

    (reply,) = answers(TransformersTeacher(untemplated), [prompt])

    assert isinstance(reply, Answer)
    assert reply.scores is not None
    totals = []
    for choice in prompt.choices:
        spelt = reference.encode(choice)
        logps = reference.logps(ids + spelt)
        totals.append(sum(float(logps[len(ids) - 1 + i, token]) for i, token in enumerate(spelt)))
        totals[-1] += float(logps[-1, reference.stops].logsumexp(-1))
    assert list(reply.scores.values()) == pytest.approx(normalised(totals), abs=1e-4)


def test_without_a_template_messages_are_joined_by_two_newlines(untemplated: Path):
    parts = (Message("system", LINES[1]), Message("user", LINES[2]))
    joined = (Message("user", f"{LINES[1]}\n\n{LINES[2]}"),)

    first, second = answers(TransformersTeacher(untemplated), [Prompt("a", parts), Prompt("b", joined)])

    assert isinstance(first, Answer)
    assert isinstance(second, Answer)
    assert (first.text, first.input_tokens) == (second.text, second.input_tokens)


def test_forty_prompts_at_once_take_two_batches(folder: Path):
    teacher = TransformersTeacher(folder, batch=32)

    replies = answers(teacher, prompts(40))

    assert [reply.prompt_id for reply in replies if isinstance(reply, Answer)] == [f"p{i}" for i in range(40)]
    assert teacher.batches == 2


@pytest.mark.parametrize("clients", [1, 8])
def test_those_just_answered_come_back_together_and_wait_for_nobody_else(folder: Path, clients: int, monkeypatch):
    monkeypatch.setattr(transformers_teacher, "_REGROUPING", 3600.0)
    teacher = TransformersTeacher(folder)

    async def client(asked: list[Prompt]) -> None:
        for prompt in asked:
            await teacher.answer(prompt, GREEDY)

    async def all_of_them() -> None:
        await asyncio.gather(*(client(prompts(5, choices=LABELS)) for _ in range(clients)))

    asyncio.run(asyncio.wait_for(all_of_them(), 60))

    assert teacher.batches == 5


def test_prompts_that_ask_for_different_things_are_answered_apart(folder: Path):
    teacher = TransformersTeacher(folder)

    async def both() -> list[Answer | Failed]:
        free, closed = prompts(4), prompts(4, choices=LABELS)
        asked = [pair for pairs in zip(free, closed, strict=True) for pair in pairs]
        return await asyncio.gather(*(teacher.answer(prompt, GREEDY) for prompt in asked))

    replies = asyncio.run(both())

    assert [isinstance(reply, Answer) and reply.scores is not None for reply in replies] == [False, True] * 4
    assert teacher.batches == 2


def test_a_bad_prompt_is_its_own_failed_row_and_nobody_elses(folder: Path, untemplated: Path):
    teacher = TransformersTeacher(folder)
    good = ask(LINES[1], id="good")
    bad = [ask("parcel " * 300, id="long"), ask("unspeakable", id="forbidden"), ask("half \ud800 a letter", id="torn")]

    long, forbidden, torn, answered = answers(teacher, [*bad, good])

    assert isinstance(long, Failed)
    assert (long.id, long.kind) == ("long", "too_long")
    assert "and 24 of answer do not fit the context of 256; shorten the prompt or lower max_tokens" in long.message
    assert forbidden == Failed("forbidden", "template", "the prompt cannot be rendered: no such words here")
    assert isinstance(torn, Failed)
    assert torn.kind == "template"
    assert isinstance(answered, Answer)
    assert answered.text == said(TransformersTeacher(folder), [good])[0]
    assert teacher.batches == 1
    assert answers(TransformersTeacher(untemplated), [ask("", id="e")]) == [
        Failed("e", "empty", "the prompt has no tokens")
    ]


def test_choices_take_only_their_own_room_in_the_context(folder: Path):
    prompt = ask("x" * 200, choices=LABELS)

    (reply,) = answers(TransformersTeacher(folder), [prompt], Sampling(max_tokens=512))

    assert isinstance(reply, Answer)


def test_one_teacher_serves_one_event_loop_after_another(folder: Path):
    teacher, asked = TransformersTeacher(folder), prompts(3)

    first, second = said(teacher, asked), said(teacher, asked)

    assert len(first) == 3
    assert first == second


def test_a_cancelled_prompt_leaves_the_others_and_the_next_loop_alone(folder: Path, caplog: pytest.LogCaptureFixture):
    teacher, asked = TransformersTeacher(folder, batch=2), prompts(6)

    async def cancel_some() -> list[Answer | Failed]:
        tasks = [asyncio.create_task(teacher.answer(prompt, GREEDY)) for prompt in asked]
        await asyncio.sleep(0.01)
        tasks[0].cancel()
        tasks[5].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(done[0], asyncio.CancelledError)
        assert isinstance(done[5], asyncio.CancelledError)
        return [answer for answer in done if isinstance(answer, Answer)]

    async def leave_at_once() -> None:
        for prompt in asked:
            asyncio.ensure_future(teacher.answer(prompt, GREEDY))  # noqa: RUF006  cancelled by the end of the loop
        await asyncio.sleep(0.01)

    assert [answer.prompt_id for answer in asyncio.run(cancel_some())] == ["p1", "p2", "p3", "p4"]
    asyncio.run(leave_at_once())
    assert len(said(teacher, asked)) == 6
    assert caplog.records == []


def test_work_that_nobody_waits_for_ends_early(folder: Path):
    teacher = TransformersTeacher(folder)
    endless = Sampling(temperature=1.0, max_tokens=200)

    async def give_up() -> None:
        task = asyncio.create_task(teacher.answer(ask(LINES[1]), endless))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await teacher.close()

    asyncio.run(give_up())
    assert len(said(teacher, [ask(LINES[1])])) == 1  # a closed teacher loads its model again


def test_a_recipe_finds_a_folder_beside_it(copied: Path):
    recipe = TransformersRecipe(kind="transformers", model="lead", batch=4, device="cpu")

    teacher = recipe.build("lead", copied.parent)

    assert teacher.identity == TransformersTeacher(copied).identity
    assert (recipe.concurrency, TransformersRecipe(kind="transformers", model="a/b").batch) == (256, 32)
    assert len(said(teacher, [ask(LINES[1])])) == 1


def test_a_recipe_takes_a_hub_id_without_asking_the_hub(tmp_path: Path):
    teacher = TransformersRecipe(kind="transformers", model="org/some-model", revision="v2").build("lead", tmp_path)

    assert teacher.name == "org/some-model@v2"


@pytest.mark.parametrize("model", ["lead", "./models/lead", "/nowhere/at/all", "a/b/c"])
def test_a_missing_folder_that_is_no_hub_id_is_refused(model: str, tmp_path: Path):
    with pytest.raises(BadInput) as refusal:
        TransformersRecipe(kind="transformers", model=model).build("lead", tmp_path)

    place = tmp_path / model
    expected = f"there is no folder {place}; expected a model's folder, or a hub id: org/name"
    assert str(refusal.value) == f"teacher lead: {expected}"


def refused(folder: Path) -> str:
    with pytest.raises(BadInput) as refusal:
        check_model_folder(folder, "teacher lead")
    return str(refusal.value).replace(str(folder), "FOLDER")


def test_a_folder_with_only_pickle_weights_is_refused(copied: Path):
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")

    assert refused(copied) == (
        "teacher lead: FOLDER holds only pickle weights (pytorch_model.bin), which can run code when loaded; "
        "convert them to safetensors"
    )
    with pytest.raises(BadInput, match="only pickle weights"):
        TransformersRecipe(kind="transformers", model="lead").build("lead", copied.parent)


@pytest.mark.parametrize("name", ["model.pt", "consolidated.00.pth", "pytorch_model-00001-of-00002.bin"])
def test_other_spellings_of_pickle_are_refused_too(copied: Path, name: str):
    (copied / "model.safetensors").rename(copied / name)

    assert f"holds only pickle weights ({name})" in refused(copied)


def test_a_folder_without_weights_config_or_tokenizer_is_refused(copied: Path):
    kept = {file.name: file.read_bytes() for file in copied.iterdir()}

    def without(*names: str) -> str:
        for name, content in kept.items():
            (copied / name).write_bytes(content)
        for name in names:
            (copied / name).unlink()
        return refused(copied)

    no_config = "FOLDER has no config.json; expected a folder that save_pretrained wrote"
    no_tokenizer = "FOLDER has no tokenizer (tokenizer.json or tokenizer_config.json)"
    assert without("config.json") == f"teacher lead: {no_config}"
    assert without("model.safetensors") == "teacher lead: FOLDER has no weights; expected *.safetensors"
    assert without("tokenizer.json", "tokenizer_config.json") == (
        f"teacher lead: {no_tokenizer}; copy it from the model it was trained with"
    )


def load_error(teacher: TransformersTeacher) -> str:
    with pytest.raises(BadInput) as refusal:
        answers(teacher, prompts(2))
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_broken_weights_are_one_line_for_everyone_who_waits(copied: Path):
    (copied / "model.safetensors").write_bytes(b"not weights")

    message = load_error(TransformersTeacher(copied, where="teacher lead"))

    assert message.startswith(f"teacher lead: {copied} cannot be loaded: ")
    assert message.endswith("; save the model again")


def test_missing_weights_are_not_made_up(copied: Path):
    from safetensors.torch import load_file, save_file

    weights = load_file(copied / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})

    message = load_error(TransformersTeacher(copied, where="teacher lead"))

    assert message == f"teacher lead: {copied} lacks 1 weights, such as model.norm.weight; save the whole model again"


def test_code_that_came_with_a_model_is_not_run(copied: Path):
    config = json.loads((copied / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (copied / "config.json").write_text(json.dumps(config))
    (copied / "own.py").write_text("raise SystemExit('it was run')")

    assert "cannot be loaded: " in load_error(TransformersTeacher(copied, where="teacher lead"))


def test_a_tokenizer_of_another_model_is_refused(copied: Path):
    import transformers as hf

    tokenizer = hf.AutoTokenizer.from_pretrained(copied)
    tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(copied)

    message = load_error(TransformersTeacher(copied))

    assert "has a tokenizer of 324 tokens and a model of 323" in message
    assert message.endswith("; copy the tokenizer from the model it was trained with")


def test_a_model_without_a_key_value_cache_is_refused(copied: Path):
    import transformers as hf

    (copied / "model.safetensors").unlink()
    hf.MambaForCausalLM(
        hf.MambaConfig(vocab_size=323, hidden_size=16, state_size=4, num_hidden_layers=1)
    ).save_pretrained(copied)

    message = load_error(TransformersTeacher(copied, where="teacher lead"))

    expected = "is of type 'mamba', which cannot be batched here; serve it elsewhere and use `kind: openai`"
    assert message == f"teacher lead: {copied} {expected}"


def test_a_device_that_is_not_there_is_refused(folder: Path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")

    message = load_error(TransformersTeacher(folder, device="cuda", where="teacher lead"))

    assert message == "teacher lead: device = 'cuda', and torch finds no CUDA device; remove `device`"


def test_a_hub_that_cannot_be_reached_may_be_reached_later(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    with pytest.raises(TeacherUnreachable) as refusal:
        answers(TransformersTeacher("org/absent", where="teacher lead"), prompts(1))

    assert str(refusal.value) == "teacher lead: the hub does not answer for org/absent; run again when it does"


def test_a_model_that_the_hub_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", endpoint + HUB_FILE)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        message = load_error(TransformersTeacher("org/absent", where="teacher lead"))
        server.shutdown()

    assert message.startswith("teacher lead: org/absent@main cannot be loaded from the hub: org/absent is not a local ")
    assert message.endswith("; check `model` and `revision`, and HF_TOKEN for a private one")


@pytest.mark.skipif(not STORIES.is_dir(), reason="the pretrained story model is not beside this checkout")
def test_a_pretrained_model_tells_its_story_alone_and_in_company():
    beginnings = ["Once upon a time", "Lily", "One day, a little dog found a big red ball in the park", "Tom was sad"]
    asked = [ask(text, id=text) for text in beginnings]
    for sampling in (Sampling(max_tokens=60), Sampling(temperature=0.9, max_tokens=60)):
        alone, together = (said(TransformersTeacher(STORIES, batch=batch), asked, sampling) for batch in (1, 4))
        assert alone == together
    assert said(TransformersTeacher(STORIES), asked)[0].startswith(", there was a little girl named Lily.")


@pytest.mark.skipif(not STORIES.is_dir(), reason="the pretrained story model is not beside this checkout")
def test_a_pretrained_model_finds_the_likelier_ending():
    choices = (" park. She was very happy.", " park. happy She was very.", " xq zzk")
    asked = [ask("Lily went to the", choices=choices), ask("One day, Lily and her mom went to the", choices=choices)]

    for reply in answers(TransformersTeacher(STORIES), asked):
        assert isinstance(reply, Answer)
        assert reply.text == choices[0]
