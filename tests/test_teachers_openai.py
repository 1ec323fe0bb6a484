import asyncio
import itertools
import json
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from understudy.data.errors import BadInput, TeacherUnreachable
from understudy.data.ledger import Ledger
from understudy.data.rows import Answer, Failed, Message, Prompt, Token
from understudy.data.storage import LocalStorage
from understudy.data.teacher import Sampling, Teacher
from understudy.teachers.kind import Price
from understudy.teachers.openai import OpenAIRecipe, OpenAITeacher
from understudy.teachers.recorded import RecordedTeacher, Spend
from understudy.teachers.reply import seconds

from .endpoint import Endpoint, Reply, error, says

KEY = "sk-very-secret-0123456789"
GREEDY = Sampling()


def recipe(base_url: str, **fields) -> OpenAIRecipe:
    return OpenAIRecipe(kind="openai", model="qwen", base_url=base_url, **fields)


def teacher(endpoint, *, key: str = "", **fields) -> OpenAITeacher:
    address = endpoint if isinstance(endpoint, str) else endpoint.base_url
    return OpenAITeacher("lead", recipe(address, **fields), key, backoff=0.005)


def prompt(number: int = 0, text: str = "hello", **fields) -> Prompt:
    return Prompt(f"p{number}", (Message("user", text),), **fields)


def ask(model: Teacher, asked: Prompt | None = None, sampling: Sampling = GREEDY):
    return asyncio.run(model.answer(asked or prompt(), sampling))


def refusal(model: OpenAITeacher) -> str:
    """The message that stops the run."""
    with pytest.raises(TeacherUnreachable) as caught:
        ask(model)
    assert caught.value.exit_code == 5
    assert "\n" not in str(caught.value)
    return str(caught.value)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_an_answer_carries_the_text_the_reason_it_ended_and_the_tokens_it_cost():
    with Endpoint(says("billing")) as endpoint:
        model = teacher(endpoint)
        assert ask(model) == Answer("p0", "billing", "stop", 7, 2)
    assert isinstance(model, Teacher)
    assert model.name == "qwen@main"
    assert model.identity == {"kind": "openai", "model": "qwen", "revision": "main"}


def test_a_greedy_request_holds_nothing_that_was_not_asked_for():
    with Endpoint() as endpoint:
        ask(teacher(endpoint), prompt(choices=("a", "b")))
    assert endpoint.requests[0].path == "/v1/chat/completions"
    assert endpoint.bodies == [
        {
            "model": "qwen",
            "messages": [{"role": "user", "content": "hello"}],
            "temperature": 0.0,
            "max_tokens": 512,
        }
    ]


def test_a_sampled_request_sends_top_p_and_the_sample_index_as_seed():
    with Endpoint() as endpoint:
        ask(teacher(endpoint), prompt(sample=3), Sampling(temperature=0.7, top_p=0.9))
    body = endpoint.bodies[0]
    assert (body["temperature"], body["top_p"], body["seed"]) == (0.7, 0.9, 3)


def test_an_open_message_is_gone_on_with_in_the_words_of_a_vllm_server():
    with Endpoint(says("my parcel", role="user"), says("ok")) as endpoint:
        model = teacher(endpoint)
        assert ask(model, prompt(text="where is", open=True)).text == "my parcel"
        ask(model, prompt(text="where is"))
    opened, closed = endpoint.bodies
    assert opened == {**closed, "continue_final_message": True, "add_generation_prompt": False}


UNOPENED = [
    (
        error(400, "Unrecognized request argument supplied: add_generation_prompt"),
        "it refused `add_generation_prompt` (Unrecognized request argument supplied: add_generation_prompt)",
    ),
    (says("Hello! How can I help?"), "it answered as 'assistant', not as 'user'"),
]


@pytest.mark.parametrize(("said", "found"), UNOPENED, ids=["refused", "ignored"])
def test_an_endpoint_that_cannot_go_on_with_an_open_message_stops_the_run(said, found):
    with Endpoint(then=said) as endpoint:
        model = teacher(endpoint)
        with pytest.raises(BadInput) as refused:
            ask(model, prompt(text="", open=True))
        assert len(endpoint.requests) == 1
    assert str(refused.value) == (
        f"teacher lead: {endpoint.base_url} cannot go on with an open message: {found}; serve the model with vLLM, or "
        "use kind: vllm or transformers"
    )
    assert model.notes == []


def test_a_schema_is_sent_as_a_strict_response_format():
    schema = {"type": "object", "properties": {"total": {"type": "number"}}}
    with Endpoint() as endpoint:
        ask(teacher(endpoint), prompt(schema=json.dumps(schema)))
    assert endpoint.bodies[0]["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": True, "schema": schema},
    }


def test_a_reply_without_usage_costs_no_tokens_and_one_without_a_reason_stopped():
    with Endpoint(Reply({"choices": [{"message": {"content": "yes"}}]})) as endpoint:
        assert ask(teacher(endpoint)) == Answer("p0", "yes")


USAGES = [
    {"prompt_tokens": 0, "completion_tokens": 0},
    {"prompt_tokens": 7, "completion_tokens": 0},
    {"prompt_tokens": -7, "completion_tokens": "2"},
    {"prompt_tokens": None},
    [7, 2],
    None,
]


@pytest.mark.parametrize("usage", USAGES, ids=str)
def test_usage_that_counts_nothing_is_paid_for_by_the_most_it_can_have_been(tmp_path, usage):
    price = Price(input=1.0, output=2.0)
    with Endpoint(Reply({**says("ok").body, "usage": usage})) as endpoint:
        model = teacher(endpoint)
        ledger, spend = Ledger(LocalStorage(tmp_path)), Spend(cap=1.0)
        ask(RecordedTeacher(model, ledger, spend, run="r", price=price))
        ledger.close()

    assert spend.usd == pytest.approx(((len("hello") + 16 + 16) * price.input + 512 * price.output) / 1e6)


LOGPROBS = {
    "content": [
        {
            "token": "▁bill",
            "logprob": -0.1,
            "bytes": [1],
            "top_logprobs": [{"token": "▁bill", "logprob": -0.1}, {"token": "Ġx", "logprob": -2.5}],
        },
        {"token": "ing", "logprob": float("-inf"), "top_logprobs": []},
    ]
}


def test_log_probabilities_come_back_as_the_server_spelt_them():
    with Endpoint(says("billing", logprobs=LOGPROBS)) as endpoint:
        answer = ask(teacher(endpoint), sampling=Sampling(logprobs=16))
    assert endpoint.bodies[0]["logprobs"] is True
    assert endpoint.bodies[0]["top_logprobs"] == 16
    assert answer.tokens == (
        Token("▁bill", -0.1, (("▁bill", -0.1), ("Ġx", -2.5))),
        Token("ing", -9999.0),
    )


@pytest.mark.parametrize("shape", [None, {"content": None}, {"content": [{"token": "a"}]}, [1]])
def test_log_probabilities_in_another_shape_do_not_cost_the_answer(shape):
    with Endpoint(says("billing", logprobs=shape)) as endpoint:
        answer = ask(teacher(endpoint), sampling=Sampling(logprobs=4))
    assert (answer.text, answer.tokens) == ("billing", ())


@pytest.mark.parametrize(
    ("text", "tokens", "kept"),
    [
        ("billing", ("other",), False),
        ("billing", ("The", " label", " is", " billing"), False),
        ("**billing**", ("billing",), False),
        ("billing", ("bill", "ing", "<|im_end|>"), True),
        (" billing", ("\n", " bill", "ing"), True),
        ("Über", ("\\xc3", "\\x9c", "ber"), True),
        ("\N{SNOWMAN}", ("\ufffd", "\ufffd"), True),
    ],
)
def test_log_probabilities_of_other_tokens_than_the_text_are_left_out_and_noted_once(text, tokens, kept):
    logprobs = {"content": [{"token": token, "logprob": -1} for token in tokens]}
    with Endpoint(then=says(text, logprobs=logprobs)) as endpoint:
        model = teacher(endpoint)
        answers = [ask(model, sampling=Sampling(logprobs=1)) for _ in range(2)]

    assert [answer.text for answer in answers] == [text, text]
    assert [token.text for token in answers[0].tokens] == (list(tokens) if kept else [])
    noted = (
        f"teacher lead: the server sent log-probabilities of other tokens than the answer's, `{tokens[0]}` for "
        f"`{text}`; such answers go without: draw several samples, or use another server"
    )
    assert model.notes == ([] if kept else [noted])


THINKING = "<think>\nis it a bill?\n</think>\n\nbilling"


def test_reasoning_is_dropped_with_its_tokens():
    pieces = ["<think>", "\nis it a bill?\n", "</th", "ink>", "\n\n", "bill", "ing"]
    logprobs = {"content": [{"token": piece, "logprob": -1} for piece in pieces]}
    with Endpoint(says(THINKING, logprobs=logprobs)) as endpoint:
        answer = ask(teacher(endpoint), sampling=Sampling(logprobs=1))
    assert answer.text == "billing"
    assert [token.text for token in answer.tokens] == ["bill", "ing"]


def test_reasoning_that_the_prompt_template_opened_is_dropped_too():
    with Endpoint(says("is it a bill?</think>\nbilling")) as endpoint:
        assert ask(teacher(endpoint)).text == "billing"


def test_reasoning_that_the_server_took_out_of_the_text_is_taken_out_of_the_tokens():
    logprobs = {"content": [{"token": piece, "logprob": -1} for piece in ("hm", "</think>", "ok")]}
    with Endpoint(says("ok", logprobs=logprobs)) as endpoint:
        answer = ask(teacher(endpoint), sampling=Sampling(logprobs=1))
    assert [token.text for token in answer.tokens] == ["ok"]


def test_a_think_tag_inside_the_answer_is_part_of_the_answer():
    text = "write <think>so</think> in the template"
    logprobs = {"content": [{"token": text, "logprob": -1}]}
    with Endpoint(says(text, logprobs=logprobs)) as endpoint:
        answer = ask(teacher(endpoint), sampling=Sampling(logprobs=1))
    assert answer.text == answer.tokens[0].text == text


def test_reasoning_is_kept_where_the_recipe_says_so():
    with Endpoint(says(THINKING)) as endpoint:
        assert ask(teacher(endpoint, reasoning="keep")).text == THINKING


@pytest.mark.parametrize("reasoning", ["drop", "keep"])
@pytest.mark.parametrize("text", ["<think>is it a bi", None])
def test_a_reply_that_ends_inside_its_reasoning_is_truncated(reasoning, text):
    with Endpoint(says(text, finish="length")) as endpoint:
        failed = ask(teacher(endpoint, reasoning=reasoning))
    assert failed == Failed("p0", "truncated", "max_tokens = 512 ran out before the answer; raise it")


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (says(None), "the reply has no text (finish_reason: stop)"),
        (says("  \n"), "the reply has no text (finish_reason: stop)"),
        (says("<think>hm</think>"), "the reply has no text (finish_reason: stop)"),
        (Reply({"choices": []}), "the reply has no choices"),
        (Reply({"choices": None}), "the reply has no choices"),
        (Reply({}), "the reply has no choices"),
        (says([{"type": "text"}]), "the content of the reply is not text"),
    ],
)
def test_a_reply_without_text_is_empty_and_not_asked_for_again(reply, message):
    with Endpoint(reply) as endpoint:
        assert ask(teacher(endpoint)) == Failed("p0", "empty", message)
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_prompt_is_a_failed_row_with_the_words_of_the_server(status):
    with Endpoint(error(status, "the input\n is   too long")) as endpoint:
        failed = ask(teacher(endpoint))
    assert failed == Failed("p0", "refused", "the input is too long")
    assert len(endpoint.requests) == 1


def test_a_413_that_names_a_parameter_is_about_the_prompt_all_the_same():
    with Endpoint(error(413, "too large for max_tokens")) as endpoint:
        assert ask(teacher(endpoint)).kind == "refused"
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    ("status", "words"),
    [(404, "maximum context length is 2048 tokens"), (403, "your input was flagged")],
)
def test_a_403_or_404_that_speaks_of_the_prompt_fails_only_that_row(status, words):
    with Endpoint(error(status, words)) as endpoint:
        assert ask(teacher(endpoint)) == Failed("p0", "refused", words)


@pytest.mark.parametrize(
    "words",
    [
        "Grammar error: Invalid type: nonsense",
        "This model's maximum context length is 2048 tokens. However, you requested 512 output tokens and your prompt "
        "contains at least 1537 input tokens, for a total of at least 2049 tokens. Please reduce the length of the "
        "input prompt or the number of requested output tokens. (parameter=input_tokens, value=1537)",
    ],
    ids=["schema", "length"],
)
def test_a_schema_or_a_length_that_a_vllm_server_cannot_take_is_its_rows_failure_alone(words):  # its words, of 0.31
    def reply(body) -> Reply:
        return error(400, words) if "response_format" in body else says("ok")

    with Endpoint(then=reply) as endpoint:
        model = teacher(endpoint)
        assert ask(model, prompt(schema='{"type":"nonsense"}')) == Failed("p0", "refused", words[:200])
        assert ask(model).text == "ok"
        assert len(endpoint.requests) == 2
    assert model.notes == []


def test_a_refusal_that_the_model_words_itself_is_refused():
    with Endpoint(says(None, refusal="I cannot help with that")) as endpoint:
        assert ask(teacher(endpoint)) == Failed("p0", "refused", "I cannot help with that")


def test_a_message_is_one_line_of_at_most_200_characters():
    with Endpoint(error(400, "\x1b[31mtoo\nlong " + "x" * 500)) as endpoint:
        failed = ask(teacher(endpoint))
    assert failed.message.startswith("[31mtoo long xxx")
    assert len(failed.message) == 200


@pytest.mark.parametrize(
    ("reply", "kind", "message"),
    [
        (error(500, "boom"), "server", "boom"),
        (error(409, "busy"), "server", "busy"),
        (Reply("<html><h1>502 Bad Gateway</h1></html>", 502), "server", "502 Bad Gateway"),
        (Reply("", 503), "server", "Service Unavailable"),
        (Reply({"error": {"message": "upstream died"}}), "server", "upstream died"),
        (error(429, "slow down"), "rate_limit", "slow down"),
        (error(408, "took too long"), "timeout", "took too long"),
        (Reply('{"choices": [{"mess'), "malformed", 'not JSON: {"choices": [{"mess'),
        (Reply('["a"]'), "malformed", 'not JSON: ["a"]'),
        (Reply(""), "malformed", "the reply is empty"),
        (Reply(says("ok").body, fault="cut"), "malformed", "the reply was cut in the middle"),
        (Reply(says("ok").body, fault="headers"), "malformed", "the reply was cut in the middle"),
        (Reply(fault="drop"), "connection", "the connection was lost before a reply"),
    ],
)
def test_a_fault_that_may_pass_is_tried_again_and_then_a_failed_row(reply, kind, message):
    with Endpoint(then=reply) as endpoint:
        billed = reply.status < 300 and kind in ("malformed", "connection")
        assert ask(teacher(endpoint, tries=3)) == Failed("p0", kind, message, billed)
        assert len(endpoint.requests) == 3


@pytest.mark.parametrize(
    "fault",
    [
        error(500, "boom"),
        error(429, "slow down"),
        Reply("{"),
        Reply(says("ok").body, fault="cut"),
        Reply(says("ok").body, fault="headers"),
        Reply(fault="drop"),
    ],
)
def test_a_fault_that_passes_costs_only_another_request(fault):
    with Endpoint(fault, fault, says("billing")) as endpoint:
        assert ask(teacher(endpoint)).text == "billing"
        assert len(endpoint.requests) == 3


def test_a_slow_prompt_is_a_timeout_once_the_server_has_answered_another():
    hangs = Reply(says("late").body, delay=30)
    with Endpoint(says("first"), then=hangs) as endpoint:
        model = teacher(endpoint, timeout_seconds=0.5, tries=2)
        assert ask(model).text == "first"
        assert ask(model) == Failed("p0", "timeout", "no reply within 0.5 s", billed=True)


def test_headers_that_no_body_follows_are_a_timeout_too():
    with Endpoint(says("first"), then=Reply(says("late").body, fault="stall")) as endpoint:
        model = teacher(endpoint, timeout_seconds=0.5, tries=2)
        assert ask(model).text == "first"
        assert ask(model) == Failed("p0", "timeout", "no reply within 0.5 s", billed=True)


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_waited_for(status):
    with Endpoint(error(status, "wait", Retry_After="0.4"), says("ok")) as endpoint:
        assert ask(teacher(endpoint)).text == "ok"
    first, second = endpoint.requests
    assert second.at - first.at >= 0.4


def test_retry_after_may_be_a_date_and_one_in_the_past_or_in_no_form_means_now():
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1)
    dates = [format_datetime(when, usegmt=True) for when in (soon - timedelta(days=1), soon)]
    faults = [error(429, "wait", Retry_After=value) for value in (dates[0], "1.2.3", "-", dates[1])]
    with Endpoint(*faults, says("ok")) as endpoint:
        assert ask(teacher(endpoint)).text == "ok"
    assert datetime.now(UTC) >= soon


def test_no_retry_after_holds_a_prompt_longer_than_a_minute():
    far = format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True)
    assert [seconds(header) for header in ("3600", far, "9" * 400, "-1")] == [60, 60, 60, 0]


def rejects(name: str, message: str):
    def reply(body) -> Reply:
        return error(400, message) if name in body else says("ok")

    return reply


EVERYTHING = Sampling(temperature=1.0, top_p=0.5, logprobs=4)


@pytest.mark.parametrize(
    ("name", "message", "noted"),
    [
        ("temperature", "Unsupported value: 'temperature' must be 1", "temperature"),
        ("top_logprobs", "Logprobs is not supported for the current model", "logprobs"),
        ("top_logprobs", "top_logprobs is above the limit of 2", "logprobs"),
        ("seed", "Unrecognized request argument supplied: seed", "seed"),
        ("top_p", "`top_p` cannot be given with this model", "top_p"),
        ("response_format", "This response_format type is unavailable now", "response_format"),
        ("response_format", "json_schema is not supported", "response_format"),
    ],
)
def test_a_refused_parameter_is_left_out_from_then_on_and_noted_once(name, message, noted):
    with Endpoint(then=rejects(name, message)) as endpoint:
        model = teacher(endpoint)
        asked = prompt(schema='{"type":"object"}')
        assert ask(model, asked, EVERYTHING).text == "ok"
        assert ask(model, asked, EVERYTHING).text == "ok"
        assert [name in body for body in endpoint.bodies] == [True, False, False]
    assert noted not in endpoint.bodies[-1]
    assert model.notes == [f"teacher lead: the server refused `{noted}` ({message}); it is now left out"]


def test_a_refusal_that_names_the_parameter_in_a_field_of_its_own_is_understood():
    body = {"error": {"message": "Unsupported value", "param": "temperature"}}
    with Endpoint(Reply(body, 400)) as endpoint:
        model = teacher(endpoint)
        assert ask(model).text == "ok"
    assert "refused `temperature` (Unsupported value)" in model.notes[0]


def test_a_refusal_in_a_list_of_details_is_understood():
    detail = [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "not permitted"}]
    with Endpoint(Reply({"detail": detail}, 422)) as endpoint:
        model = teacher(endpoint)
        assert ask(model, sampling=Sampling(temperature=1.0)).text == "ok"
    assert "refused `seed`" in model.notes[0]


def test_max_tokens_is_sent_under_its_other_name_where_the_server_wants_that():
    words = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    with Endpoint(then=rejects("max_tokens", words)) as endpoint:
        model = teacher(endpoint)
        assert ask(model).text == "ok"
        assert ask(model).text == "ok"
        assert [body.get("max_completion_tokens") for body in endpoint.bodies] == [None, 512, 512]
    assert model.notes == [
        f"teacher lead: the server refused `max_tokens` ({words}); it is now sent as `max_completion_tokens`"
    ]


def test_two_refused_parameters_are_both_learnt_and_many_prompts_note_them_once():
    def reply(body) -> Reply:
        for name in ("max_tokens", "temperature"):
            if name in body:
                return error(400, f"'{name}' is not supported with this model")
        return says("ok")

    async def run(model):
        return await asyncio.gather(*(model.answer(prompt(n), GREEDY) for n in range(8)))

    with Endpoint(then=reply) as endpoint:
        model = teacher(endpoint)
        assert {answer.text for answer in asyncio.run(run(model))} == {"ok"}
    assert len(model.notes) == 2


def test_a_refusal_that_only_quotes_a_parameter_changes_nothing_for_other_prompts():
    def reply(body) -> Reply:
        words = "max_tokens is too large: the context length is 2048 and the temperature outside 30"
        return error(400, words) if "long" in body["messages"][0]["content"] else says("ok")

    with Endpoint(then=reply) as endpoint:
        model = teacher(endpoint)
        assert ask(model, prompt(text="long")).kind == "refused"
        assert ask(model).text == "ok"
        assert {"temperature", "max_tokens"} <= endpoint.bodies[-1].keys()
    assert model.notes == []


@pytest.mark.parametrize(("status", "phrase"), [(401, "Unauthorized"), (403, "Forbidden")])
def test_a_wrong_key_stops_the_run_at_once(status, phrase):
    with Endpoint(then=error(status, "Incorrect API key provided.")) as endpoint:
        message = refusal(teacher(endpoint, key=KEY, api_key_env="OPENAI_API_KEY"))
        assert len(endpoint.requests) == 1
    assert message == (
        f"teacher lead: {endpoint.base_url}/chat/completions answered {status} ({phrase}): "
        "Incorrect API key provided; set OPENAI_API_KEY to a valid key, or check `api_key_env`"
    )


def test_a_missing_key_names_the_field_that_is_missing():
    with Endpoint(then=error(401, "no key")) as endpoint:
        message = refusal(teacher(endpoint))
    assert message.endswith("set an environment variable to a valid key, or check `api_key_env`")


@pytest.mark.parametrize(
    "words", ["The model `qwen` does not exist.", "Not Found", "The model `prompt-qwen` is unknown."]
)
def test_a_model_or_route_that_does_not_exist_stops_the_run(words):
    with Endpoint(then=error(404, words)) as endpoint:
        model = "prompt-qwen" if "prompt" in words else "qwen"
        fields = OpenAIRecipe(kind="openai", model=model, base_url=endpoint.base_url)
        message = refusal(OpenAITeacher("lead", fields))
    assert message == (
        f"teacher lead: {endpoint.base_url}/chat/completions answered 404 (Not Found): "
        f"{words.rstrip('.')}; check base_url and model"
    )


@pytest.mark.parametrize("status", [200, 404])
def test_an_html_page_stops_the_run_and_names_base_url(status):
    page = Reply("<!DOCTYPE html><h1>hi</h1>", status, {"Content-Type": "text/html"})
    with Endpoint(then=page) as endpoint:
        address = endpoint.base_url.removesuffix("/v1")
        assert refusal(teacher(address)) == (
            f"teacher lead: {address}/chat/completions answered with an HTML page, not JSON; base_url should end in /v1"
        )
        assert refusal(teacher(endpoint)).endswith("not JSON; check base_url")


def test_a_redirect_is_not_followed():
    moved = Reply("", 301, {"Location": "https://other.example/v1/chat/completions"})
    with Endpoint(then=moved) as endpoint:
        message = refusal(teacher(endpoint))
    assert message.endswith(
        "answered 301 (Moved Permanently): https://other.example/v1/chat/completions; put that address in base_url"
    )


@pytest.mark.parametrize(
    "reply",
    [
        error(402, "no credit left"),
        Reply({"error": {"message": "no credit left", "code": "insufficient_quota"}}, 429),
    ],
)
def test_an_account_without_credit_stops_the_run(reply):
    with Endpoint(then=reply) as endpoint:
        message = refusal(teacher(endpoint))
        assert len(endpoint.requests) == 1
    assert message.endswith("no credit left; check the account's credit and limits")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_that_was_never_there_stops_the_run(host):
    address = f"http://{host}:{closed_port()}/v1"
    assert refusal(teacher(address, tries=100)) == (  # a hundred tries would take minutes
        f"teacher lead: {address}/chat/completions cannot be reached: connection refused; "
        "start the server, or check base_url"
    )


def test_a_name_that_does_not_resolve_stops_the_run():
    message = refusal(teacher("http://nowhere.invalid/v1"))
    assert message.startswith("teacher lead: http://nowhere.invalid/v1/chat/completions cannot be ")
    assert message.endswith("; start the server, or check base_url")


@pytest.mark.parametrize("host", ["127.0.0.1:99999", "127.0.0.1:port", "a..b"])
def test_an_address_that_cannot_be_one_stops_the_run(host):
    assert "cannot be reached: " in refusal(teacher(f"http://{host}/v1"))


def test_a_server_that_goes_away_stops_the_run_and_blames_no_row():
    with Endpoint(says("ok")) as endpoint:
        model = teacher(endpoint)
        assert ask(model).text == "ok"
    assert "cannot be reached: connection refused" in refusal(model)


def test_a_server_that_dies_under_a_prompt_stops_the_run_and_blames_no_row():
    async def run(model, endpoint):
        task = asyncio.create_task(model.answer(prompt(), GREEDY))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(endpoint.__exit__)
        return await task

    endpoint = Endpoint(says("ok"), then=Reply(delay=30)).__enter__()
    model = teacher(endpoint)
    assert ask(model).text == "ok"
    with pytest.raises(TeacherUnreachable, match="cannot be reached: connection refused"):
        asyncio.run(run(model, endpoint))


def test_a_server_that_never_answered_and_hangs_stops_the_run_after_two_timeouts():
    with Endpoint(then=Reply(delay=30)) as endpoint:
        message = refusal(teacher(endpoint, timeout_seconds=0.25))
        assert len(endpoint.requests) == 2
    assert message == (
        f"teacher lead: {endpoint.base_url}/chat/completions gave no reply within 0.25 s; "
        "check that the model is loaded, or raise `timeout_seconds`"
    )


def test_a_key_that_is_not_in_the_environment_is_refused_when_the_teacher_is_built(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    fields = recipe("http://127.0.0.1:1/v1", api_key_env="OPENAI_API_KEY")
    with pytest.raises(BadInput) as caught:
        fields.build("lead", Path())
    assert str(caught.value) == (
        "teacher lead: OPENAI_API_KEY is not set in the environment; export it, or remove `api_key_env`"
    )


def test_the_key_travels_in_the_header_and_is_found_nowhere_else(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")
    quotes = error(400, f"bad seed for key {KEY} " + "x" * 170 + KEY)
    with Endpoint(quotes, then=says("ok")) as endpoint:
        fields = recipe(endpoint.base_url, api_key_env="OPENAI_API_KEY")
        model = fields.build("lead", Path())
        assert ask(model, sampling=Sampling(temperature=1.0)).text == "ok"
    assert endpoint.requests[0].headers["Authorization"] == f"Bearer {KEY}"
    shown = f"{fields!r} {model!r} {model.notes} {model.identity} {model.name}"
    assert "bad seed for key ***" in shown
    assert "sk-very" not in shown
    with Endpoint(then=error(401, f"wrong key {KEY}")) as endpoint:
        message = refusal(teacher(endpoint, key=KEY))
    assert "wrong key ***" in message
    assert "sk-very" not in message


def test_a_key_that_an_answer_repeats_is_hidden_there_too():
    logprobs = {"content": [{"token": KEY, "logprob": -1, "top_logprobs": [{"token": f" {KEY}", "logprob": -1}]}]}
    with Endpoint(says(f"{KEY}, you said", finish=KEY, logprobs=logprobs)) as endpoint:
        answer = ask(teacher(endpoint, key=KEY), sampling=Sampling(logprobs=1))

    assert answer.text == "***, you said"
    assert answer.tokens == (Token("***", -1, ((" ***", -1),)),)
    assert "sk-very" not in repr(answer)


def test_a_key_is_hidden_as_json_escapes_it_and_a_word_in_its_place_is_not():
    said = Reply('{"choices": [{"message": {"content": "0123456789/abcdef/ and 0123456789\\/abcdef\\/"}}]}')
    with Endpoint(said, says("the token is EMPTY")) as endpoint:
        assert ask(teacher(endpoint, key="0123456789/abcdef/")).text == "*** and ***"
        assert ask(teacher(endpoint, key="EMPTY")).text == "the token is EMPTY"


def test_a_key_in_the_address_of_a_redirect_is_hidden():
    moved = Reply("", 301, {"Location": f"https://other.example/v1?key={KEY}"})
    with Endpoint(then=moved) as endpoint:
        assert "https://other.example/v1?key=***; put that" in refusal(teacher(endpoint, key=KEY))


@pytest.mark.parametrize("fields", [{"api_key_env": KEY}, {"headers_env": {"X-Gateway": KEY}}], ids=["key", "header"])
def test_a_key_where_its_variables_name_should_be_is_refused_without_being_shown(fields):
    with pytest.raises(ValidationError) as refused:
        recipe("http://127.0.0.1:1/v1", **fields)

    (fault,) = refused.value.errors()
    assert fault["msg"] == (
        "Value error, is not the name of an environment variable; put the key in one, such as OPENAI_API_KEY, and its "
        "name here"
    )


def test_no_key_sends_no_authorization():
    with Endpoint() as endpoint:
        ask(teacher(endpoint))
    assert "Authorization" not in endpoint.requests[0].headers


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "ftp://host/v1", "http://me:secret@host/v1"])
def test_an_address_that_is_none_or_holds_a_secret_is_refused(address):
    with pytest.raises(ValueError, match="base_url"):
        recipe(address)


def test_as_many_prompts_are_in_flight_as_the_concurrency_says_and_no_more():
    async def run(model, count):
        return await asyncio.gather(*(model.answer(prompt(n), GREEDY) for n in range(count)))

    with Endpoint(together=64) as endpoint:
        answers = asyncio.run(run(teacher(endpoint, concurrency=64), 64))
    assert endpoint.most_in_flight == 64
    assert [answer.prompt_id for answer in answers] == [f"p{n}" for n in range(64)]
    with Endpoint(then=Reply(says("ok").body, delay=0.01)) as endpoint:
        asyncio.run(run(teacher(endpoint, concurrency=4), 12))
    assert endpoint.most_in_flight <= 4


def test_waiting_for_a_slot_is_not_held_against_the_server():
    async def run(model):
        return await asyncio.gather(*(model.answer(prompt(n), GREEDY) for n in range(6)))

    with Endpoint(then=Reply(says("ok").body, delay=0.2)) as endpoint:
        answers = asyncio.run(run(teacher(endpoint, concurrency=1, timeout_seconds=0.8)))
        assert len(endpoint.requests) == 6
    assert {answer.text for answer in answers} == {"ok"}


def test_a_teacher_serves_several_loops_and_may_be_closed_and_used_again():
    async def use_and_close(model):
        await model.answer(prompt(), GREEDY)
        await model.close()
        await model.close()
        return await model.answer(prompt(), GREEDY)

    with Endpoint() as endpoint:
        model = teacher(endpoint)
        assert ask(model).text == "ok"
        assert ask(model).text == "ok"
        assert asyncio.run(use_and_close(model)).text == "ok"


def test_check_names_the_served_models():
    with Endpoint(Reply({"data": [{"id": "qwen"}, {"id": "llama"}]})) as endpoint:
        assert asyncio.run(teacher(endpoint).check()) == "qwen, llama"
    assert endpoint.requests[0].path == "/v1/models"


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (error(401, "who"), "answered 401 (Unauthorized): who"),
        (error(500, "boom"), "gave no list of models: boom; check base_url"),
        (Reply({"object": "x"}), "gave no list of models: the reply has none; check base_url"),
    ],
)
def test_check_says_why_no_models_were_listed(reply, message):
    with Endpoint(then=reply) as endpoint, pytest.raises(TeacherUnreachable) as caught:
        asyncio.run(teacher(endpoint).check())
    assert f"{endpoint.base_url}/models {message}" in str(caught.value)


def test_a_request_that_may_have_been_billed_is_charged_before_it_is_made_again():
    charged = []
    with Endpoint(Reply(says("ok").body, fault="cut"), error(500, "boom"), Reply(fault="drop"), says("ok")) as endpoint:
        model = teacher(endpoint)
        model.charge_again = lambda prompt, sampling: charged.append((prompt.id, sampling.max_tokens))
        assert ask(model).text == "ok"

    assert charged == [("p0", 512)] * 2  # a 500 is not billed


def test_extra_fields_are_sent_and_make_another_teacher_of_it():
    with Endpoint() as endpoint:
        plain, extra = teacher(endpoint), teacher(endpoint, extra_body={"reasoning_effort": "low"})
        ask(extra)

    assert endpoint.requests[0].body["reasoning_effort"] == "low"
    assert plain.identity != extra.identity


def test_a_server_that_can_is_made_to_choose_among_the_labels():
    with Endpoint(says("refund")) as endpoint:
        plain, choosing = teacher(endpoint), teacher(endpoint, choices=True)
        ask(choosing, prompt(choices=("refund", "delivery")))
        ask(choosing, prompt(text="write freely"))
        ask(plain, prompt(choices=("refund", "delivery")))

    allowed = [body.get("structured_outputs") for body in endpoint.bodies]
    assert allowed == [{"choice": ["refund", "delivery"]}, None, None]
    assert plain.identity != choosing.identity


def test_a_server_that_cannot_choose_is_asked_without_and_noted():
    words = "Unrecognized request argument supplied: structured_outputs"
    with Endpoint(then=rejects("structured_outputs", words)) as endpoint:
        model = teacher(endpoint, choices=True)
        assert ask(model, prompt(choices=("ok", "not ok"))).text == "ok"

    assert model.notes == [f"teacher lead: the server refused `structured_outputs` ({words}); it is now left out"]


def test_an_extra_field_that_the_recipe_sets_itself_is_refused():
    with pytest.raises(ValidationError, match="'temperature' is set from the recipe's own fields; remove it"):
        OpenAIRecipe(kind="openai", model="m", extra_body={"temperature": 0})


def test_headers_come_from_the_environment_and_are_shown_nowhere(monkeypatch):
    monkeypatch.setenv("GATEWAY_TOKEN", "gate-secret\n")
    with Endpoint(error(400, "bad token gate-secret")) as endpoint:
        recipe = OpenAIRecipe(
            kind="openai", model="m", base_url=endpoint.base_url, headers_env={"X-Gateway": "GATEWAY_TOKEN"}
        )
        failed = ask(recipe.build("lead", Path()))

    assert endpoint.requests[0].headers["X-Gateway"] == "gate-secret"
    assert failed.message == "bad token ***"
    assert "gate-secret" not in repr(recipe)


def test_a_header_keeps_its_scheme_and_its_credentials_are_hidden_without_it_too(monkeypatch):
    monkeypatch.setenv("GATEWAY_TOKEN", " Basic Z2F0ZS1zZWNyZXQ=\n")
    with Endpoint(error(400, "bad credentials Z2F0ZS1zZWNyZXQ=")) as endpoint:
        fields = recipe(endpoint.base_url, headers_env={"Proxy-Authorization": "GATEWAY_TOKEN"})
        failed = ask(fields.build("lead", Path()))

    assert endpoint.requests[0].headers["Proxy-Authorization"] == "Basic Z2F0ZS1zZWNyZXQ="
    assert failed.message == "bad credentials ***"


def test_a_header_whose_variable_is_missing_is_named(monkeypatch):
    monkeypatch.delenv("GATEWAY_TOKEN", raising=False)
    recipe = OpenAIRecipe(kind="openai", model="m", headers_env={"X-Gateway": "GATEWAY_TOKEN"})
    with pytest.raises(BadInput) as refused:
        recipe.build("lead", Path())

    found = "teacher lead: GATEWAY_TOKEN is not set in the environment; export it, or remove `headers_env.X-Gateway`"
    assert str(refused.value) == found


def test_an_answer_from_another_model_is_noted_once():
    body = {**says("ok").body, "model": "other-model"}
    with Endpoint(then=Reply(body)) as endpoint:
        model = teacher(endpoint)
        ask(model)
        ask(model)

    assert model.notes == [
        "teacher lead: asked for `qwen`, answered by `other-model`; if that is another model, give it a `revision` of "
        "its own"
    ]


def test_a_minutes_requests_are_spread_over_the_minute():
    with Endpoint() as endpoint:
        model = teacher(endpoint, requests_per_minute=610)

        async def run() -> None:
            await asyncio.gather(*(model.answer(prompt(number), Sampling()) for number in range(6)))
            await model.close()

        asyncio.run(run())
        came = sorted(asked.at for asked in endpoint.requests)

    assert all(later - earlier > 0.05 for earlier, later in itertools.pairwise(came))  # 0.1 s apart when they leave
