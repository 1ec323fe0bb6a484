"""How much personal data is found, and how many other numbers are taken for it: `python -m tests.benchmarks.pii`.

Planted are numbers made by the rules of their kind, each alone in a message. Against them stand other numbers of a help
desk, drawn at random, and real messages that hold no personal data, of which every hit is shown.
"""

from __future__ import annotations

import random
import string
import time
from collections import Counter
from collections.abc import Callable, Iterator

import phonenumbers
import pyarrow.parquet as pq
from phonenumbers import PhoneNumberFormat, PhoneNumberType
from stdnum import iban, luhn

from understudy.data.pii import _REGIONS, redacted

from .contamination import DATASETS

DRAWS = 2000


def digits(draw: random.Random, count: int) -> str:
    return "".join(draw.choices(string.digits, k=count))


def in_fours(number: str) -> str:
    return " ".join(number[place : place + 4] for place in range(0, len(number), 4))


def emails(draw: random.Random) -> Iterator[str]:
    names = ("jo", "ann.lee", "o'neil", "x_99", "support+eu", "Jörg", "m-k")
    for _ in range(DRAWS):
        domain = draw.choice(("example.com", "mail.example.co.uk", "müller.example.de", "a-b.example.museum"))
        yield f"{draw.choice(names)}{draw.randrange(100)}@{domain}"


def cards(draw: random.Random) -> Iterator[str]:
    for _ in range(DRAWS):
        begun = draw.choice(("4", "51", "2221", "6011", "3528")) + digits(draw, 16)
        number = begun[:15] + luhn.calc_check_digit(begun[:15])
        yield draw.choice((number, in_fours(number), in_fours(number).replace(" ", "-")))


def ibans(draw: random.Random) -> Iterator[str]:
    for _ in range(DRAWS):
        body = f"DE00{digits(draw, 18)}"
        number = f"DE{iban.calc_check_digits(body)}{body[4:]}"
        yield draw.choice((number, number.lower(), in_fours(number)))


def addresses(draw: random.Random) -> Iterator[str]:
    for _ in range(DRAWS):
        yield ".".join(str(draw.randrange(1, 255)) for _ in range(4)).replace("127.", "128.")


def phones(form: int, regions: Iterator[str] | tuple[str, ...]) -> Iterator[str]:
    for region in sorted(regions):
        for kind in (PhoneNumberType.FIXED_LINE, PhoneNumberType.MOBILE):
            if number := phonenumbers.example_number_for_type(region, kind):
                yield phonenumbers.format_number(number, form)


def called(_: random.Random) -> Iterator[str]:
    for number in phones(PhoneNumberFormat.NATIONAL, _REGIONS):
        bare = "".join(filter(str.isdigit, number))
        for lead in ("call me on", "my phone number is", "Tel:", "WhatsApp"):
            yield f"{lead} {bare}"


PLANTED: dict[str, Callable[[random.Random], Iterator[str]]] = {
    "e-mail": emails,
    "card": cards,
    "iban": ibans,
    "ip": addresses,
    "phone, international": lambda _: phones(PhoneNumberFormat.INTERNATIONAL, phonenumbers.SUPPORTED_REGIONS),
    "phone, E.164": lambda _: phones(PhoneNumberFormat.E164, phonenumbers.SUPPORTED_REGIONS),
    "phone, national, 8 countries": lambda _: phones(PhoneNumberFormat.NATIONAL, _REGIONS),
    "phone, national, elsewhere": lambda _: phones(
        PhoneNumberFormat.NATIONAL, phonenumbers.SUPPORTED_REGIONS.difference(_REGIONS)
    ),
    "phone, in one piece, called one": called,
}

OTHERS: dict[str, Callable[[random.Random], str]] = {
    "order, 5 to 12 digits": lambda draw: digits(draw, draw.randint(5, 12)),
    "order, 16 digits": lambda draw: digits(draw, 16),
    "order, 8 digits in fours": lambda draw: in_fours(digits(draw, 8)),
    "order, year and number": lambda draw: f"2024-{digits(draw, 6)}",
    "order, 3-7-7": lambda draw: f"{digits(draw, 3)}-{digits(draw, 7)}-{digits(draw, 7)}",
    "article": lambda draw: f"{''.join(draw.choices(string.ascii_uppercase, k=3))}-{digits(draw, 4)}-{digits(draw, 2)}",
    "parcel, 1Z": lambda draw: f"1Z{digits(draw, 16)}",
    "parcel, 12 and 20 digits": lambda draw: digits(draw, draw.choice((12, 20))),
    "amount": lambda draw: f"{draw.randrange(1_000_000) / 100:,.2f}",
    "date": lambda draw: draw.choice(("{2:04}-{1:02}-{0:02}", "{0:02}.{1:02}.{2:04}", "{0}/{1}/{2}")).format(
        draw.randint(1, 28), draw.randint(1, 12), draw.randint(1970, 2030)
    ),
    "time span": lambda draw: f"{draw.randrange(24):02}:{draw.randrange(60):02}-{draw.randrange(24):02}:00",
    "version": lambda draw: ".".join(str(draw.randrange(100)) for _ in range(3)),
}


def main() -> None:
    """Print shares found, by kind; then what else is called personal."""
    draw = random.Random(0)
    print("planted: found")
    for name, kind in PLANTED.items():
        texts = [f"hello, {value} please, thanks" for value in kind(draw)]
        missed = [text for text in texts if not redacted(text)[1]]
        print(f"  {name}: {1 - len(missed) / len(texts):.1%} of {len(texts)}{f', not {missed[0]!r}' if missed else ''}")
    print("others: called personal")
    for name, make in OTHERS.items():
        kinds = Counter(redacted(f"where is {make(draw)} that I sent")[1] for _ in range(DRAWS))
        found = DRAWS - kinds.pop((), 0)
        print(f"  {name}: {found / DRAWS:.2%} {dict(kinds) or ''}")
    for name, column in (("banking77", "text"), ("snips", "text"), ("gsm8k", "question")):
        rows = pq.read_table(DATASETS / name / "train.parquet").column(column).to_pylist()
        started = time.perf_counter()
        hits = [text for text in rows if redacted(text)[1]]
        seconds = time.perf_counter() - started
        print(f"{name}: {len(hits)} of {len(rows)} messages, {len(rows) / seconds:,.0f} rows/s")
        for text in hits[:5]:
            print(f"  {redacted(text)[0]}")


if __name__ == "__main__":
    main()
