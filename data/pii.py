"""Personal data in a text: e-mail addresses, telephone, account and card numbers, IP addresses.

What has a form is found by it, and by its check digits where it has any, so that order numbers, prices and dates stay.
Names and street addresses have none: finding them takes a model, and presidio's come from elsewhere at the first use,
so they are not found here, and the help says so.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_EMAIL = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]+@[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9-]+)+")
_IBAN = re.compile(r"\b[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}\b")
_CARD = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-])")
_IP = re.compile(r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7})(?![\w:]|\.\d)")
_MAY_DIAL = re.compile(r"\d(?:\D{0,3}\d){6}")
_GROUPED = re.compile(r"\d[ ./()-]+\d")

_CARD_BEGINS = re.compile(r"3[47]|3[0689]|4|5[1-5]|2[2-7]|6(?:011|4|5)")
"""American Express, Diners, Visa, Mastercard, Discover: other runs of digits that pass Luhn's check are chance."""

_POSTCODE = re.compile(r"\d{5}-\d{4}")
"""Of the United States, in full."""

_REGIONS = ("US", "GB", "DE", "FR", "ES", "IT", "IN", "AU")
"""Where a number without a country code may be dialled; elsewhere it is found with its country code."""


@dataclass(frozen=True, slots=True)
class Found:
    """A piece of personal data."""

    kind: str
    start: int
    end: int


def personal(text: str) -> list[Found]:
    """What stands in a text, in order; of two that overlap the one that begins first, and is longer."""
    found = sorted((one for look in _LOOKS for one in look(text)), key=lambda one: (one.start, -one.end))
    apart: list[Found] = []
    for one in found:
        if not apart or one.start >= apart[-1].end:
            apart.append(one)
    return apart


def redacted(text: str) -> tuple[str, tuple[str, ...]]:
    """The text with placeholders such as `<email>` in the place of personal data, and the kinds found, sorted."""
    found = personal(text)
    for one in reversed(found):
        text = f"{text[: one.start]}<{one.kind}>{text[one.end :]}"
    return text, tuple(sorted({one.kind for one in found}))


def _emails(text: str) -> Iterator[Found]:
    if "@" in text:
        yield from (Found("email", *match.span()) for match in _EMAIL.finditer(text))


def _ibans(text: str) -> Iterator[Found]:
    from stdnum import iban

    for match in _IBAN.finditer(text):
        for end in range(match.end(), match.start() + 14, -1):  # a word after it may look like more of it
            if text[end - 1].isalnum() and iban.is_valid(text[match.start() : end]):
                yield Found("iban", match.start(), end)
                break


def _cards(text: str) -> Iterator[Found]:
    from stdnum import luhn

    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        if _CARD_BEGINS.match(digits) and luhn.is_valid(digits):
            yield Found("card", *match.span())


def _addresses(text: str) -> Iterator[Found]:
    for match in _IP.finditer(text):
        try:
            address = ipaddress.ip_address(match[0])
        except ValueError:
            continue
        long_enough = address.version == 4 or match[0].count(":") > 2  # a::b is code, or a smile
        if long_enough and not (address.is_loopback or address.is_unspecified):
            yield Found("ip", *match.span())


def _phones(text: str) -> Iterator[Found]:
    """Numbers with a country code, and those that are grouped as somewhere they are dialled."""
    from phonenumbers import Leniency, PhoneNumberMatcher

    if not _MAY_DIAL.search(text):
        return
    for region in (None, *_REGIONS):
        leniency = Leniency.VALID if region is None else Leniency.STRICT_GROUPING
        for match in PhoneNumberMatcher(text, region, leniency):
            said = match.raw_string
            if said.startswith("+") or (_GROUPED.search(said) and not _POSTCODE.fullmatch(said)):
                yield Found("phone", match.start, match.end)


_LOOKS: tuple[Callable[[str], Iterator[Found]], ...] = (_emails, _ibans, _cards, _addresses, _phones)
