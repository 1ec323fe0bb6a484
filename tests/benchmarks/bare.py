"""The bare loop: the least that turns a file of inputs into a file of answers and may be killed meanwhile.

asyncio and aiohttp, a semaphore, a retry with jitter, and a JSONL journal flushed with every answer; a second run
leaves out what the journal has. No ledger key, no class of fault, no budget: it is the yardstick, not a peer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

import aiohttp

from .gauge import Gauge, printable
from .job import messages

TRIES = 6


async def loop(inputs: Iterable[str], journal: TextIO, url: str, concurrency: int, gauge: Gauge) -> None:
    """Ask for every input and write each answer to the journal as it comes."""
    slots = asyncio.Semaphore(concurrency)

    async def ask(said: str) -> None:
        body = {"model": "mock", "messages": messages(said), "temperature": 0.0, "max_tokens": 512}
        for attempt in range(TRIES):
            async with session.post(f"{url}/chat/completions", json=body) as got:
                reply = await got.json()
            if got.status == 200:
                text = reply["choices"][0]["message"]["content"]
                journal.write(json.dumps({"input": said, "text": text}) + "\n")
                break
            await asyncio.sleep(random.uniform(0, 0.25 * 2**attempt))
        gauge.count()
        slots.release()

    connections = aiohttp.TCPConnector(limit=concurrency)
    async with aiohttp.ClientSession(connector=connections) as session, asyncio.TaskGroup() as group:
        for said in inputs:
            await slots.acquire()
            group.create_task(ask(said))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("pool", type=Path)
    parser.add_argument("journal", type=Path)
    parser.add_argument("url")
    parser.add_argument("rows", type=int)
    parser.add_argument("concurrency", type=int)
    given = parser.parse_args()
    gauge = Gauge(given.rows)
    journalled = given.journal.read_text().splitlines() if given.journal.exists() else ()
    done = {json.loads(line)["input"] for line in journalled}
    with open(given.pool) as pool, open(given.journal, "a", buffering=1) as journal:  # 1: a line is written as it ends
        missing = (said for line in pool if (said := json.loads(line)["input"]) not in done)
        asyncio.run(loop(missing, journal, given.url, given.concurrency, gauge))
    print(json.dumps(printable(gauge.report())))


if __name__ == "__main__":
    main()
