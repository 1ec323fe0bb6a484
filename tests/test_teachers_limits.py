"""What an endpoint takes: at once, and in a minute."""

from __future__ import annotations

import asyncio

from understudy.teachers.limits import EvenPace, Slots


async def _peak(slots: Slots, jobs: int) -> int:
    most = 0

    async def job() -> None:
        nonlocal most
        async with slots:
            most = max(most, slots.busy)
            await asyncio.sleep(0)

    await asyncio.gather(*(job() for _ in range(jobs)))
    return most


def test_no_more_than_the_slots_are_in_flight_and_all_get_through():
    assert asyncio.run(_peak(Slots(8), 100)) == 8


def test_refusals_at_random_change_nothing():
    slots = Slots(256)
    slots.busy = 256

    for number in range(10_000):
        slots.refused() if number % 50 == 0 else slots.answered()  # two in a hundred

    assert slots.limit == 256


def test_a_server_that_refuses_is_asked_less_and_then_slowly_more():
    slots = Slots(64)
    slots.busy = 64

    for _ in range(5):
        slots.refused()
    assert slots.limit == 48
    slots.busy = 48
    for _ in range(5):
        slots.refused()
    assert slots.limit == 36
    for _ in range(100):
        slots.answered()
    assert round(slots.limit) == 40


def test_one_request_always_goes_out():
    slots = Slots(4)
    for _ in range(100):
        slots.refused()

    assert slots.limit == 1
    assert asyncio.run(_peak(slots, 5)) == 1


def test_a_cancelled_wait_gives_its_slot_on():
    async def scene() -> int:
        slots = Slots(1)
        async with slots:
            waiting = [asyncio.create_task(_peak(slots, 1)) for _ in range(3)]
            await asyncio.sleep(0)
            waiting[0].cancel()
            await asyncio.sleep(0)
        await asyncio.gather(*waiting, return_exceptions=True)
        return slots.busy

    assert asyncio.run(scene()) == 0


def test_a_slot_given_and_cancelled_in_the_same_moment_is_not_lost():
    async def scene() -> int:
        slots = Slots(1)
        await slots.__aenter__()
        waiting = asyncio.create_task(_peak(slots, 1))
        await asyncio.sleep(0)
        await slots.__aexit__(None, None, None)  # lets the waiting one in, which is then cancelled before it runs
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return slots.busy

    assert asyncio.run(scene()) == 0


def test_no_sixty_seconds_hold_more_than_the_requests_of_a_minute():
    pace = EvenPace(600, None)

    places = [pace.delay(0) for _ in range(1300)]

    for first in (0, 100, 333, 600):
        assert sum(places[first] <= place < places[first] + 60 for place in places) <= 600


def test_tokens_hold_requests_back_where_they_are_the_tighter_limit():
    pace = EvenPace(600, 1000)

    places = [pace.delay(100) for _ in range(3)]

    assert 6.0 < places[1] - places[0] < 6.2
    assert 6.0 < places[2] - places[1] < 6.2


def test_without_limits_nobody_waits():
    pace = EvenPace(None, None)

    assert [pace.delay(10_000) for _ in range(3)] == [0, 0, 0]
