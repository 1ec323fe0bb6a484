"""Asked once, paid once: what stands between every model and every stage, and the two teachers it is tried with."""

import asyncio
import math
import time
from pathlib import Path

import pytest

from understudy.data.errors import BadInput, BudgetReached, TeacherUnreachable, UnderstudyError
from understudy.data.ledger import Ledger
from understudy.data.rows import Answer, Failed, Message, Prompt, Token
from understudy.data.storage import LocalStorage
from understudy.data.teacher import Sampling, Teacher
from understudy.teachers.kind import HourlyPrice, Price
from understudy.teachers.recorded import RecordedTeacher, Spend, answer_from, request_key, spent_before
from understudy.teachers.scripted import ScriptedTeacher
from understudy.teachers.table import TableRecipe, TableTeacher

GREEDY = Sampling()
PRICE = Price(input=1.0, output=2.0)

_OPEN: list[Ledger] = []


@pytest.fixture(autouse=True)
def _every_ledger_is_closed():
    yield
    while _OPEN:
        _OPEN.pop().close()


def prompt(name: str, text: str = "hello", **fields) -> Prompt:
    return Prompt(name, (Message("user", text),), **fields)


def recorded(root: Path, teacher: Teacher, spend: Spend | None = None, price: Price | None = None) -> RecordedTeacher:
    """A run of its own on a root: what it knows of earlier runs it knows from the disk."""
    while _OPEN:
        _OPEN.pop().close()
    _OPEN.append(Ledger(LocalStorage(root)))
    return RecordedTeacher(teacher, _OPEN[-1], spend or Spend(), run="r", price=price)


def shout(**fields) -> ScriptedTeacher:
    return ScriptedTeacher(str.upper, **fields)


def ask(model: RecordedTeacher, *prompts: Prompt, sampling: Sampling = GREEDY) -> list[Answer | Failed]:
    async def together() -> list[Answer | Failed]:
        return await asyncio.gather(*(model.answer(one, sampling) for one in prompts))

    return asyncio.run(together())


# the ledger


def test_a_prompt_is_asked_once_and_answered_from_the_ledger_ever_after(tmp_path):
    teacher = shout()
    model = recorded(tmp_path, teacher)
    assert ask(model, prompt("p0")) == [Answer("p0", "HELLO")]
    assert ask(model, prompt("p1")) == [Answer("p1", "HELLO", from_ledger=True)]
    later = recorded(tmp_path, teacher)
    assert ask(later, prompt("p2")) == [Answer("p2", "HELLO", from_ledger=True)]
    assert teacher.asked == ["p0"]
    assert (later.spend.requests, later.spend.from_ledger) == (0, 1)


def test_it_is_a_teacher_that_goes_by_the_name_of_the_one_it_asks(tmp_path):
    model = recorded(tmp_path, shout(name="org/big@v2"))
    assert isinstance(model, Teacher)
    assert model.name == "org/big@v2"
    assert model.identity == {"kind": "scripted", "model": "org/big", "revision": "v2"}
    asyncio.run(model.close())


def test_every_part_of_an_answer_comes_back_from_the_ledger(tmp_path):
    said = Answer(
        "p",
        "naïve\n👍",
        "length",
        11,
        7,
        (Token("na", -0.1, (("na", -0.1), ("no", -2.5))), Token("", -9999.0)),
        {"billing": -0.2, "other": -1.7},
    )
    teacher = ScriptedTeacher(lambda _: said)
    assert ask(recorded(tmp_path, teacher), prompt("p")) == [said]
    (again,) = ask(recorded(tmp_path, teacher), prompt("q"))
    assert again == Answer(
        "q", said.text, "length", 11, 7, said.tokens, {"billing": -0.2, "other": -1.7}, from_ledger=True
    )
    assert teacher.asked == ["p"]


def test_token_ids_come_back_too_and_records_without_them_are_read(tmp_path):
    tokens = (Token("na", -0.1, (("na", -0.1), ("no", -2.5)), 7, (7, 9)), Token("!", -0.3, (), 0))
    teacher = ScriptedTeacher(lambda _: Answer("p", "na!", tokens=tokens))
    model = recorded(tmp_path, teacher)
    ask(model, prompt("p"))
    (again,) = ask(recorded(tmp_path, teacher), prompt("p"))
    assert isinstance(again, Answer)
    assert again.tokens == tokens

    (record,) = recorded(tmp_path, teacher).ledger.records()
    body = record.body["answer"]
    assert body["tokens"] == [["na", -0.1, [["na", -0.1], ["no", -2.5]], 7, [7, 9]], ["!", -0.3, [], 0, []]]
    older = answer_from({**body, "tokens": [parts[:3] for parts in body["tokens"]]}, "p")
    assert older.tokens == (Token("na", -0.1, (("na", -0.1), ("no", -2.5))), Token("!", -0.3))


def test_the_record_says_who_was_asked_what_by_which_run_and_for_how_much(tmp_path):
    teacher = ScriptedTeacher(lambda _: Answer("p", "x", input_tokens=1_000_000, output_tokens=500_000))
    model = recorded(tmp_path, teacher, price=PRICE)
    ask(model, prompt("p", sample=3), sampling=Sampling(logprobs=2))
    (record,) = model.ledger.records()
    assert record.key == request_key(teacher.identity, prompt("p", sample=3), GREEDY)
    assert record.logprobs == 2
    assert record.body["teacher"] == {"kind": "scripted", "model": "scripted", "revision": "main"}
    assert record.body["messages"] == [{"role": "user", "content": "hello"}]
    assert (record.body["sample"], record.body["run"], record.body["usd"]) == (3, "r", 2.0)


def test_what_was_asked_differently_is_another_key():
    base = (shout().identity, prompt("p"), GREEDY)
    others = [
        (shout(name="scripted@v2").identity, prompt("p"), GREEDY),
        (shout(name="other").identity, prompt("p"), GREEDY),
        ({**shout().identity, "kind": "openai"}, prompt("p"), GREEDY),
        (shout().identity, prompt("p", "hello!"), GREEDY),
        (shout().identity, Prompt("p", (Message("system", "hello"),)), GREEDY),
        (shout().identity, Prompt("p", (Message("system", ""), Message("user", "hello"))), GREEDY),
        (shout().identity, prompt("p", sample=1), GREEDY),
        (shout().identity, prompt("p", choices=("a", "b")), GREEDY),
        (shout().identity, prompt("p", choices=("b", "a")), GREEDY),
        (shout().identity, prompt("p", schema='{"type":"object"}'), GREEDY),
        (shout().identity, prompt("p", open=True), GREEDY),
        (shout().identity, prompt("p"), Sampling(temperature=0.7)),
        (shout().identity, prompt("p"), Sampling(top_p=0.9)),
        (shout().identity, prompt("p"), Sampling(max_tokens=64)),
    ]
    keys = {request_key(*asked) for asked in [base, *others]}
    assert len(keys) == len(others) + 1
    assert all(len(key) == 32 and int(key, 16) >= 0 for key in keys)


def test_the_name_of_the_prompt_and_the_logprobs_asked_for_are_not_in_the_key():
    key = request_key(shout().identity, prompt("p"), GREEDY)
    assert request_key(shout().identity, prompt("q"), Sampling(logprobs=20)) == key


def test_the_key_is_pinned_because_another_one_would_pay_for_every_answer_again():
    asked = Prompt("p", (Message("system", "é"), Message("user", "hello")), ("a", "b"), '{"type":"object"}', 2)
    identity = {"kind": "openai", "model": "qwen", "revision": "main"}
    assert request_key(identity, asked, Sampling(temperature=0.7, max_tokens=64)) == "9eb43149cd66405cfdf3e984a43e4ea8"


def test_neither_price_nor_address_nor_concurrency_is_in_the_key(tmp_path):
    teacher = shout()
    ask(recorded(tmp_path, teacher, price=PRICE), prompt("p"))
    dearer = recorded(tmp_path, shout(delay=0.01), price=Price(input=9, output=9))
    assert ask(dearer, prompt("p")) == [Answer("p", "HELLO", from_ledger=True)]
    recipe = TableRecipe(kind="table", model="a.csv", concurrency=1, price=PRICE)
    (tmp_path / "a.csv").write_text("input,output\na,b\n")
    other = recipe.model_copy(update={"concurrency": 99, "price": None})
    assert recipe.build("lead", tmp_path).identity == other.build("boss", tmp_path).identity


def test_an_answer_with_more_logprobs_serves_fewer_and_one_with_fewer_is_asked_again(tmp_path):
    teacher = shout()
    model = recorded(tmp_path, teacher)
    ask(model, prompt("p0"), sampling=Sampling(logprobs=5))
    ask(model, prompt("p1"), sampling=Sampling(logprobs=2))
    ask(model, prompt("p2"), sampling=Sampling(logprobs=16))
    ask(model, prompt("p3"), sampling=Sampling(logprobs=5))
    assert teacher.asked == ["p0", "p2"]


# at once


def test_two_equal_prompts_in_flight_at_once_are_asked_once(tmp_path):
    teacher = shout(delay=0.02)
    model = recorded(tmp_path, teacher)
    answers = ask(model, *(prompt(f"p{n}") for n in range(5)))
    assert teacher.asked == ["p0"]
    assert answers == [Answer("p0", "HELLO"), *(Answer(f"p{n}", "HELLO", from_ledger=True) for n in range(1, 5))]
    assert (model.spend.requests, model.spend.from_ledger) == (1, 4)
    assert len(model.ledger) == 1


def test_different_prompts_go_out_together(tmp_path):
    teacher = shout(delay=0.02)
    ask(recorded(tmp_path, teacher), *(prompt(f"p{n}", f"text {n}") for n in range(32)))
    assert teacher.most_in_flight == 32


def test_one_in_flight_without_logprobs_does_not_answer_one_that_needs_them(tmp_path):
    def with_tokens(_: str) -> Answer:
        return Answer("p", "x", tokens=(Token("x", -0.1, (("x", -0.1),)),))

    teacher = ScriptedTeacher(with_tokens, delay=0.02)
    model = recorded(tmp_path, teacher)

    async def both() -> None:
        plain = asyncio.create_task(model.answer(prompt("p0"), GREEDY))
        rich = asyncio.create_task(model.answer(prompt("p1"), Sampling(logprobs=5)))
        await asyncio.gather(plain, rich)

    asyncio.run(both())
    assert teacher.asked == ["p0", "p1"]
    assert model.ledger.find(request_key(teacher.identity, prompt("p"), GREEDY), 5) is not None


def test_whoever_waits_for_a_request_may_be_cancelled_without_the_others(tmp_path):
    teacher = shout(delay=0.05)
    model = recorded(tmp_path, teacher)

    async def race(victim: int) -> list[object]:
        tasks = [asyncio.create_task(model.answer(prompt(f"p{n}", f"to {victim}"), GREEDY)) for n in range(3)]
        await asyncio.sleep(0.01)
        tasks[victim].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    for victim in range(3):
        said = asyncio.run(race(victim))
        assert isinstance(said[victim], asyncio.CancelledError)
        others = [answer for n, answer in enumerate(said) if n != victim]
        assert [answer.text for answer in others] == [f"TO {victim}"] * 2
    assert teacher.asked == ["p0"] * 3
    assert (model.spend.reserved, model.spend.failed) == (0, {})


def test_a_request_that_everybody_left_is_recorded_all_the_same(tmp_path):
    teacher = shout(delay=0.02)
    model = recorded(tmp_path, teacher)

    async def leave() -> None:
        task = asyncio.create_task(model.answer(prompt("p"), GREEDY))
        await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.gather(*model._in_flight.values())

    asyncio.run(leave())
    assert ask(recorded(tmp_path, teacher), prompt("q")) == [Answer("q", "HELLO", from_ledger=True)]


class Broken(ScriptedTeacher):
    """Raises what it is told to."""

    def __init__(self, error: BaseException, delay: float = 0.01) -> None:
        super().__init__(str.upper, delay=delay)
        self.error = error

    async def answer(self, prompt: Prompt, sampling: Sampling) -> Answer | Failed:
        await super().answer(prompt, sampling)
        raise self.error


class Stopped(BaseException):
    """What a signal handler raises."""


@pytest.mark.parametrize("error", [TeacherUnreachable("gone"), Stopped("stop"), ValueError("a bug")])
def test_what_goes_wrong_with_a_request_reaches_everybody_who_waits_for_it(tmp_path, error):
    teacher = Broken(error)
    model = recorded(tmp_path, teacher)

    async def race() -> list[object]:
        return await asyncio.gather(*(model.answer(prompt(f"p{n}"), GREEDY) for n in range(3)), return_exceptions=True)

    assert asyncio.run(race()) == [error] * 3
    assert teacher.asked == ["p0"]
    assert len(model.ledger) == 0
    assert model._in_flight == {}
    model.teacher = shout()
    assert ask(model, prompt("q")) == [Answer("q", "HELLO")]


def test_an_error_that_nobody_waits_for_any_more_is_no_noise(tmp_path, caplog):
    model = recorded(tmp_path, Broken(TeacherUnreachable("gone")))

    async def leave() -> None:
        task = asyncio.create_task(model.answer(prompt("p"), GREEDY))
        await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.gather(*model._in_flight.values(), return_exceptions=True)

    asyncio.run(leave())
    assert caplog.records == []


def test_a_run_that_is_stopped_keeps_the_answers_that_are_in_and_asks_for_the_rest(tmp_path):
    def quick_or_never(text: str) -> str:
        return text.upper()

    class Uneven(ScriptedTeacher):
        async def answer(self, prompt: Prompt, sampling: Sampling) -> Answer | Failed:
            if int(prompt.id) % 2:
                self.asked.append(prompt.id)
                await asyncio.Event().wait()
            return await super().answer(prompt, sampling)

    teacher = Uneven(quick_or_never)
    model = recorded(tmp_path, teacher, Spend(cap=1.0), PRICE)

    async def stopped() -> None:
        tasks = [asyncio.create_task(model.answer(prompt(str(n), f"text {n}"), GREEDY)) for n in range(10)]
        for _ in range(20):
            await asyncio.sleep(0)
        assert not any(task.done() for task in tasks)
        raise Stopped  # five answers are in and on their way to the disk, five will never come

    with pytest.raises(Stopped):
        asyncio.run(stopped())
    assert model.spend.reserved == pytest.approx(0)
    assert model.spend.failed == {"interrupted": 5}
    later_teacher = shout()
    later = recorded(tmp_path, later_teacher)  # closes the first ledger, as every run does at its end
    answers = ask(later, *(prompt(str(n), f"text {n}") for n in range(10)))
    assert [answer.text for answer in answers] == [f"TEXT {n}" for n in range(10)]
    assert later_teacher.asked == ["1", "3", "5", "7", "9"]


# failures


def test_a_failure_is_a_row_is_not_recorded_and_is_asked_again(tmp_path):
    teacher = ScriptedTeacher(lambda _: Failed("whoever", "refused", "no"))
    model = recorded(tmp_path, teacher)
    assert ask(model, prompt("whoever")) == [Failed("whoever", "refused", "no")]
    assert len(model.ledger) == 0
    assert model.spend.failed == {"refused": 1}
    teacher.reply = str.upper
    assert ask(model, prompt("whoever")) == [Answer("whoever", "HELLO")]
    assert ask(recorded(tmp_path, teacher), prompt("x")) == [Answer("x", "HELLO", from_ledger=True)]


def test_a_failure_carries_the_name_of_each_prompt_that_waited_for_it(tmp_path):
    teacher = ScriptedTeacher(lambda _: Failed("p0", "refused", "no"), delay=0.01)
    answers = ask(recorded(tmp_path, teacher), prompt("p0"), prompt("p1"))
    assert answers == [Failed("p0", "refused", "no"), Failed("p1", "refused", "no")]
    assert teacher.asked == ["p0"]


def test_offline_nothing_is_asked_and_what_is_missing_is_told_as_it_was(tmp_path):
    teacher = ScriptedTeacher(lambda text: Failed("p1", "refused", "no") if text == "bad" else text.upper())
    model = recorded(tmp_path, teacher)
    ask(model, prompt("p0"), prompt("p1", "bad"))
    model.asking = False
    counted = model.spend.from_ledger
    assert ask(model, prompt("a"), prompt("b", "bad"), prompt("c", "new")) == [
        Answer("a", "HELLO", from_ledger=True),
        Failed("b", "refused", "no"),
        Failed("c", "pending", "not asked yet"),
    ]
    assert len(teacher.asked) == 2
    assert model.spend.from_ledger == counted


def test_a_failure_that_was_mended_is_not_told_again(tmp_path):
    teacher = ScriptedTeacher(lambda _: Failed("p", "refused", "no"))
    model = recorded(tmp_path, teacher)
    ask(model, prompt("p"))
    teacher.reply = str.upper
    ask(model, prompt("p"))
    model.asking = False
    assert ask(model, prompt("p")) == [Answer("p", "HELLO", from_ledger=True)]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_an_answer_with_a_number_that_is_none_is_a_failed_row(tmp_path, number):
    expected = Failed("p", "broken", "a log-probability in the answer is not a finite number")
    for said in (
        Answer("p", "x", scores={"a": number, "b": 0.0}),
        Answer("p", "x", tokens=(Token("x", number),)),
        Answer("p", "x", tokens=(Token("x", -0.1, (("y", number),)),)),
    ):
        model = recorded(tmp_path, ScriptedTeacher(lambda _, said=said: said))
        assert ask(model, prompt("p")) == [expected]
        assert len(model.ledger) == 0


def test_half_an_emoji_becomes_the_replacement_character_at_once_and_in_the_ledger(tmp_path):
    said = Answer("p", "cut \ud83d", "length", tokens=(Token("\ud83d", -0.1, (("\ude00", -0.2),)),))
    teacher = ScriptedTeacher(lambda _: said)
    (first,) = ask(recorded(tmp_path, teacher), prompt("p"))
    assert first.text == "cut \ufffd"
    assert first.tokens == (Token("\ufffd", -0.1, (("\ufffd", -0.2),)),)
    (again,) = ask(recorded(tmp_path, teacher), prompt("p"))
    assert (again.text, again.tokens) == (first.text, first.tokens)


def test_an_answer_is_not_given_before_it_is_on_disk(tmp_path):
    model = recorded(tmp_path, shout())

    async def check() -> None:
        for n in range(3):
            await model.answer(prompt("p", f"text {n}"), GREEDY)
            (segment,) = (tmp_path / "ledger" / "segments").iterdir()
            assert f'"TEXT {n}"' in segment.read_text()

    asyncio.run(check())


class FullDisk(LocalStorage):
    def segment(self, path: str):
        raise OSError(28, "No space left on device")


def test_an_answer_that_cannot_be_written_ends_the_run_in_one_line(tmp_path):
    ledger = Ledger(FullDisk(tmp_path))
    _OPEN.append(ledger)
    model = RecordedTeacher(shout(), ledger, Spend(), run="r", price=None)
    with pytest.raises(UnderstudyError, match="cannot be written: No space left on device; free some space and run"):
        ask(model, prompt("p"))


# money


def costly(_: str) -> Answer:
    return Answer("p", "x", input_tokens=5, output_tokens=512)


def test_requests_tokens_and_dollars_are_counted(tmp_path):
    teacher = ScriptedTeacher(lambda text: Answer("p", "x", "stop", len(text), 3))
    model = recorded(tmp_path, teacher, price=PRICE)
    ask(model, prompt("p", "four"), prompt("q", "seventh"))
    ask(model, prompt("r", "four"))
    spend = model.spend
    assert (spend.requests, spend.from_ledger, spend.input_tokens, spend.output_tokens) == (2, 1, 11, 6)
    assert spend.usd == pytest.approx((11 * 1.0 + 6 * 2.0) / 1e6)
    assert spend.reserved == pytest.approx(0)
    assert spent_before(model.ledger, "r") == pytest.approx(spend.usd)
    assert spent_before(model.ledger, "another") == 0


def test_without_a_price_nothing_is_spent_and_no_cap_is_reached(tmp_path):
    model = recorded(tmp_path, ScriptedTeacher(costly), Spend(cap=0.0))
    ask(model, *(prompt("p", f"text {n}") for n in range(5)))
    assert (model.spend.usd, model.spend.output_tokens) == (0.0, 5 * 512)


DOLLAR_A_SECOND = HourlyPrice(per_hour=3600)


def test_an_hour_is_paid_for_once_however_many_are_asked_in_it(tmp_path):
    model = recorded(tmp_path, ScriptedTeacher(costly, delay=0.05), price=DOLLAR_A_SECOND)
    prompts = [prompt("p", f"text {n}") for n in range(16)]
    started = time.monotonic()
    ask(model, *prompts)
    seconds = time.monotonic() - started
    ask(model, *prompts)  # what the ledger says takes no hour

    assert 0.05 <= model.spend.usd <= seconds
    assert spent_before(model.ledger, "r") == pytest.approx(model.spend.usd)
    assert sum(model.paid(one, GREEDY) for one in prompts) == pytest.approx(model.spend.usd)
    assert model.paid(prompt("p", "never asked"), GREEDY) == 0


def test_a_cap_ends_the_asking_of_a_machine_paid_by_the_hour(tmp_path):
    teacher = ScriptedTeacher(costly, delay=0.02)
    model = recorded(tmp_path, teacher, Spend(cap=0.1), DOLLAR_A_SECOND)

    def ask_on() -> None:
        for number in range(64):
            ask(model, prompt("p", f"text {number}"))

    with pytest.raises(BudgetReached):
        ask_on()
    assert len(teacher.asked) < 6
    assert model.spend.reserved == pytest.approx(0)


@pytest.mark.parametrize("cap", [0.0, 0.0009, 0.0025, 0.01, 0.02])
@pytest.mark.parametrize("at_once", [1, 32])
def test_the_cap_is_never_exceeded_however_many_are_in_flight(tmp_path, cap, at_once):
    teacher = ScriptedTeacher(costly, delay=0.001)
    model = recorded(tmp_path, teacher, Spend(cap=cap), PRICE)
    highest = 0.0

    async def work(queue: list[int]) -> None:
        nonlocal highest
        while queue:
            number = queue.pop()
            await model.answer(prompt("p", f"text {number}"), GREEDY)
            highest = max(highest, model.spend.usd + model.spend.reserved)

    async def all_of_them() -> None:
        queue = list(range(64))
        said = await asyncio.gather(*(work(queue) for _ in range(at_once)), return_exceptions=True)
        raise next(error for error in said if error)

    with pytest.raises(BudgetReached) as caught:
        asyncio.run(all_of_them())
    assert highest <= cap
    assert model.spend.usd == pytest.approx(len(teacher.asked) * PRICE.usd(costly("")))
    assert model.spend.usd <= cap
    assert model.spend.reserved == pytest.approx(0)
    assert cap - model.spend.usd < 0.0012 * at_once
    assert caught.value.exit_code == 3
    assert str(caught.value).startswith("budget: $")
    assert str(caught.value).endswith(
        f"in flight of ${cap:g}, and the next request may cost $0.0011; raise budget.usd and run again: "
        "nothing is asked twice"
    )


@pytest.mark.parametrize("text", ["", "plain words here", "7" * 400, "{[(<|>)]}" * 40, "👍" * 100, "दिल्ली" * 50])
def test_what_is_reserved_covers_a_token_for_every_byte(tmp_path, text):
    """Digits and rare signs are a token each, and a byte of an unknown sign is one too."""
    schema = '{"type":"object"}'
    worst = Answer("p", "x", input_tokens=len((text + schema).encode()) + 16, output_tokens=512)
    spend = Spend(cap=10.0)
    reserved = []

    class Watched(ScriptedTeacher):
        async def answer(self, prompt: Prompt, sampling: Sampling) -> Answer | Failed:
            reserved.append(spend.reserved)
            return worst

    ask(recorded(tmp_path, Watched(str.upper), spend, PRICE), prompt("p", text, schema=schema))
    assert spend.usd == PRICE.usd(worst) <= reserved[0]


def test_an_answer_from_the_ledger_needs_no_money(tmp_path):
    ask(recorded(tmp_path, ScriptedTeacher(costly), price=PRICE), prompt("p"))
    broke = recorded(tmp_path, ScriptedTeacher(costly), Spend(cap=0.0), PRICE)
    assert ask(broke, prompt("p"))[0].from_ledger
    with pytest.raises(BudgetReached):
        ask(broke, prompt("p", "something new"))


def test_a_failed_row_costs_nothing_and_an_error_may_have_cost_everything(tmp_path):
    model = recorded(tmp_path, ScriptedTeacher(lambda _: Failed("p", "refused", "no")), Spend(cap=1.0), PRICE)
    ask(model, prompt("p"))
    assert (model.spend.usd, model.spend.requests) == (0.0, 1)
    model.teacher = Broken(TeacherUnreachable("gone"))
    with pytest.raises(TeacherUnreachable):
        ask(model, prompt("p"))
    assert model.spend.usd == pytest.approx(((5 + 16 + 16) * 1.0 + 512 * 2.0) / 1e6)
    assert model.spend.failed == {"refused": 1, "interrupted": 1}
    assert model.spend.reserved == pytest.approx(0)


# the scripted teacher


def test_a_scripted_teacher_remembers_what_it_was_asked_and_how_many_at_once():
    async def three() -> None:
        await asyncio.gather(*(teacher.answer(prompt(f"p{n}"), GREEDY) for n in range(3)))
        await teacher.answer(prompt("p3"), GREEDY)

    teacher = shout(delay=0.001)
    asyncio.run(three())
    assert (teacher.asked, teacher.most_in_flight) == (["p0", "p1", "p2", "p3"], 3)
    assert isinstance(teacher, Teacher)
    asyncio.run(teacher.close())


# the table


def table(folder: Path, content: str, name: str = "answers.csv") -> TableTeacher:
    (folder / name).write_text(content)
    return TableRecipe(kind="table", model=name).build("people", folder)


def lookup(teacher: TableTeacher, text: str) -> Answer | Failed:
    return asyncio.run(teacher.answer(prompt("p", text), GREEDY))


def test_a_table_answers_what_it_has_whatever_the_case_punctuation_and_space(tmp_path):
    teacher = table(tmp_path, "input,output\nWhere is my parcel?,delivery\nRefund me!,billing\n")
    for text in ("Where is my parcel?", "where is  my parcel", "Input: Where is my parcel?", "Input:\nrefund me"):
        assert lookup(teacher, text) == Answer("p", "billing" if "refund" in text else "delivery")
    assert lookup(teacher, "Something else") == Failed("p", "absent", "answers.csv has no row for this input; add one")
    assert isinstance(teacher, Teacher)
    asyncio.run(teacher.close())


def test_a_table_may_be_a_sheet_that_is_not_filled_in_yet(tmp_path):
    lines = "sheet_id,input,output\nrow-1,'=1+1,other\nrow-2,where is it,\n"

    teacher = table(tmp_path, lines)

    assert lookup(teacher, "=1+1").text == "other"
    assert lookup(teacher, "where is it").kind == "absent"


def test_a_table_reads_the_last_message(tmp_path):
    teacher = table(tmp_path, "input,output\nhello,x\n")
    asked = Prompt("p", (Message("system", "Label this."), Message("user", "Input: hello")))
    assert asyncio.run(teacher.answer(asked, GREEDY)) == Answer("p", "x")


def test_a_table_goes_on_with_no_message(tmp_path):
    model = table(tmp_path, "input,output\n?,nothing\n")
    failed = Failed("p", "open", "answers.csv cannot go on with a message; use a teacher that writes")
    assert asyncio.run(model.answer(prompt("p", "", open=True), GREEDY)) == failed


def test_a_table_tells_apart_what_differs_in_vowel_signs_or_emoji_only(tmp_path):
    teacher = table(tmp_path, "input,output\nका,one\nकी,two\n👍,good\n👎,bad\n")
    assert [lookup(teacher, text).text for text in ("का", "की", "👍", "👎")] == ["one", "two", "good", "bad"]


def test_of_two_rows_for_one_input_the_first_counts(tmp_path):
    teacher = table(tmp_path, "input,output\nhello,first\nHello!,second\n")
    assert lookup(teacher, "hello") == Answer("p", "first")


def test_an_input_with_a_colon_of_its_own_is_found_whole(tmp_path):
    teacher = table(tmp_path, "input,output\nnote: refund,a\nrefund,b\n")
    assert lookup(teacher, "note: refund") == lookup(teacher, "Input: note: refund") == Answer("p", "a")


def test_the_content_of_a_table_is_its_identity_and_not_its_place(tmp_path):
    content = "input,output\nhello,x\n"
    one, other, edited = (
        table(tmp_path, content),
        table(tmp_path, content, "b.csv"),
        table(tmp_path, content + "bye,y\n"),
    )
    assert one.identity == other.identity != edited.identity
    assert set(one.identity) == {"kind", "model", "revision"}
    assert (one.name, other.name) == ("answers.csv@main", "b.csv@main")


def test_a_table_may_be_several_files(tmp_path):
    table(tmp_path, "input,output\na,x\n", "t1.csv")
    table(tmp_path, "input,output\nb,y\n", "t2.csv")
    teacher = TableRecipe(kind="table", model="t*.csv").build("people", tmp_path)
    assert [lookup(teacher, text).text for text in "ab"] == ["x", "y"]
    alone = TableRecipe(kind="table", model="t1.csv").build("people", tmp_path)
    assert teacher.identity != alone.identity


def test_a_table_that_is_not_there_or_lacks_an_answer_is_refused(tmp_path):
    with pytest.raises(BadInput) as caught:
        TableRecipe(kind="table", model="no.csv").build("people", tmp_path)
    assert str(caught.value) == (
        f"teachers.people.model: {tmp_path}/no.csv: no such file; expected a CSV, JSONL, JSON, Parquet or text file"
    )
    with pytest.raises(BadInput, match=r"answers\.csv:3: no output; found input, output; add `output` \(or `label`\)"):
        table(tmp_path, "input,output\na,x\nb,\n")


def test_a_failure_that_may_have_been_billed_stays_charged_in_later_runs_too(tmp_path):
    late = ScriptedTeacher(lambda _: Failed("p", "timeout", "no reply within 2 s", billed=True))
    model = recorded(tmp_path, late, Spend(cap=1.0), PRICE)
    ask(model, prompt("p"))

    most = ((5 + 16 + 16) * 1.0 + 512 * 2.0) / 1e6
    assert model.spend.usd == pytest.approx(most)
    assert spent_before(model.ledger, "r") == pytest.approx(most)
    assert not ask(recorded(tmp_path, shout(), price=PRICE), prompt("p"))[0].from_ledger


def test_an_answer_whose_tokens_nobody_counted_costs_the_most_it_can(tmp_path):
    model = recorded(tmp_path, ScriptedTeacher(lambda _: Answer("p", "x")), Spend(cap=1.0), PRICE)
    ask(model, prompt("p"))

    assert model.spend.usd == pytest.approx(((5 + 16 + 16) * 1.0 + 512 * 2.0) / 1e6)


class Lossy(ScriptedTeacher):
    """Loses so many replies before one arrives, as an endpoint does whose connection breaks."""

    losses = 0
    charge_again = None

    async def answer(self, prompt: Prompt, sampling: Sampling) -> Answer | Failed:
        for _ in range(self.losses):
            self.charge_again(prompt, sampling)
        return await super().answer(prompt, sampling)


def test_every_request_that_may_have_been_billed_counts_toward_the_cap(tmp_path):
    most = ((5 + 16 + 16) * 1.0 + 512 * 2.0) / 1e6
    teacher = Lossy(costly)
    teacher.losses = 2
    model = recorded(tmp_path, teacher, Spend(cap=1.0), PRICE)
    ask(model, prompt("p"))

    paid = 2 * most + PRICE.usd(costly(""))
    assert model.spend.usd == pytest.approx(paid)
    assert model.spend.reserved == pytest.approx(0)
    assert spent_before(model.ledger, "r") == pytest.approx(paid)


def test_a_request_is_not_made_again_where_the_last_one_may_have_used_the_money(tmp_path):
    most = ((5 + 16 + 16) * 1.0 + 512 * 2.0) / 1e6
    teacher = Lossy(costly)
    teacher.losses = 2
    model = recorded(tmp_path, teacher, Spend(cap=2.5 * most), PRICE)

    with pytest.raises(BudgetReached):
        ask(model, prompt("p"))

    assert teacher.asked == []
    assert model.spend.usd == pytest.approx(2 * most)
    assert spent_before(model.ledger, "r") == pytest.approx(2 * most)


def test_what_was_paid_before_a_moment_is_left_out(tmp_path):
    model = recorded(tmp_path, ScriptedTeacher(costly), price=PRICE)
    ask(model, prompt("p"))

    assert spent_before(model.ledger, "r", time.time() - 60) == pytest.approx(PRICE.usd(costly("")))
    assert spent_before(model.ledger, "r", time.time() + 60) == 0
