"""Personal data in a text: e-mail addresses, telephone, account, card and national numbers, IP addresses.

What has a form is found by it, and by its check digits where it has any, so that order numbers, prices and dates stay.
Names and street addresses have none: finding them takes a model, and presidio's come from elsewhere at the first use,
so they are not found here, and the help says so.
"""

from __future__ import annotations

import ipaddress
import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

_LOCAL = r"[\w!#$%&'*+/=?^`{|}~.-]"
_EMAIL = re.compile(rf"(?<!{_LOCAL}){_LOCAL}++@(?:[^\W_](?:[\w-]*[^\W_])?\.)+[^\W\d_][\w-]*[^\W_]")
"""Begun where a run of letters begins, so that a text takes time by its length and not by its square."""

_IBAN = re.compile(r"\b[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}\b")
_CARD = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-])")
_IP = re.compile(
    r"(?<![\w.])(?<!version )\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)"
    r"|(?<![\w.:])[0-9A-F]{0,4}(?::[0-9A-F]{0,4}){2,7}(?![\w:]|\.\d)",
    re.IGNORECASE,
)
_MAY_DIAL = re.compile(r"\d(?:\D{0,3}\d){6}")
_GROUPED = re.compile(r"\d[ ./()-]+\d")

_CARDS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|3[47]\d{13}|3[0689]\d{12}|(?:5[1-5]|2[2-7]|35|65)\d{14}|(?:6011|64[4-9]\d)\d{12}"
)
"""Visa, American Express, Diners, Mastercard, JCB, Discover: other digits that pass Luhn's check are chance."""

_POSTCODE = re.compile(r"\d{5}-\d{4}")
"""Of the United States, in full."""

_REGIONS = ("US", "GB", "DE", "FR", "ES", "IT", "IN", "AU")
"""Where a number without a country code may be dialled; elsewhere it is found with its country code."""

_TO_DIAL = re.compile(
    r"\b(?:(?:tele)?(?:ph|f)on\w*|téléphone|teléfono|tel|mobile?|móvil|portable|handy\w*|cell|fax|whatsapp|sms"
    r"|call|text|ring|dial|reach)\b"
    r"(?:\W+(?:number|no|nr|num|is|me|us|back|on|at|under|ist|unter|est|es|au))*\W*$",
    re.IGNORECASE,
)
"""Before a number in one piece, which may be dialled or be an order's, in English, German, French and Spanish."""

_NATIONAL = {
    "us_ssn": r"\d{3}-\d{2}-\d{4}",
    "fr_nir": r"[12] ?\d{2} ?\d{2} ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}",
    "it_codicefiscale": r"[A-Z]{6}\d{2}[A-Z]\d{2}[A-Z]\d{3}[A-Z]",
    "es_dni": r"\d{8}-?[A-Z]",
    "es_nie": r"[XYZ]-?\d{7}-?[A-Z]",
    "br_cpf": r"\d{3}\.\d{3}\.\d{3}-\d{2}",
    "be_nn": r"\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}",
    "fi_hetu": r"\d{6}[+A-]\d{3}[0-9A-Z]",
    "no_fodselsnummer": r"\d{6} ?\d{5}",
    "cn_ric": r"\d{17}[\dX]",
}
"""Of those countries whose form or two check digits leave little to chance: one check digit passes a tenth of all."""

_ID = re.compile(
    rf"(?<![\w.-])(?:{'|'.join(f'(?P<{name}>{form})' for name, form in _NATIONAL.items())})(?![\w-]|\.\d)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Found:
    """A piece of personal data."""

    kind: str
    start: int
    end: int


def personal(text: str) -> list[Found]:
    """What stands in a text, in order; of two that overlap the one that begins first, and is longer."""
    if not text.isascii():
        text = "".join(map(_typed, text))
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


def redacted_output(text: str) -> tuple[str, tuple[str, ...]]:
    """The same for an answer: what is JSON stays JSON, a number that is personal becomes a placeholder in quotes."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict | list):
        return redacted(text)
    kinds: set[str] = set()
    clean = _cleaned(value, kinds)
    return (json.dumps(clean, ensure_ascii=False, sort_keys=True) if kinds else text), tuple(sorted(kinds))


def _cleaned(value: Any, kinds: set[str]) -> Any:
    """A JSON value without personal data, whose kinds are added to ``kinds``."""
    if isinstance(value, dict):
        return {_cleaned(key, kinds): _cleaned(part, kinds) for key, part in value.items()}
    if isinstance(value, list):
        return [_cleaned(part, kinds) for part in value]
    if isinstance(value, bool) or not isinstance(value, str | int):
        return value
    clean, found = redacted(str(value))
    kinds.update(found)
    return clean if found else value


@lru_cache(maxsize=4096)
def _typed(char: str) -> str:
    """A digit, space, dash or full-width sign as a keyboard has it, and any other sign as it is."""
    match unicodedata.category(char):
        case "Nd":
            return str(unicodedata.decimal(char))
        case "Zs":
            return " "
        case "Pd":
            return "-"
    return unicodedata.normalize("NFKC", char) if unicodedata.east_asian_width(char) == "F" else char


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
        if _CARDS.fullmatch(digits) and luhn.is_valid(digits):
            yield Found("card", *match.span())


def _national(text: str) -> Iterator[Found]:
    from stdnum import get_cc_module

    for match in _ID.finditer(text):
        assert match.lastgroup, "every form has its name"
        if get_cc_module(*match.lastgroup.split("_")).is_valid(match[0]):
            yield Found("national-id", *match.span())


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
    """Numbers with a country code, those that are grouped as somewhere they are dialled, and those said to be any."""
    from phonenumbers import Leniency, PhoneNumberMatcher

    if not _MAY_DIAL.search(text):
        return
    for region in (None, *_REGIONS):
        leniency = Leniency.VALID if region is None else Leniency.STRICT_GROUPING
        for match in PhoneNumberMatcher(text, region, leniency, max_tries=len(text)):
            said = match.raw_string
            grouped = _GROUPED.search(said) and not _POSTCODE.fullmatch(said)
            if said.startswith("+") or grouped or _TO_DIAL.search(text, max(0, match.start - 60), match.start):
                yield Found("phone", match.start, match.end)


_LOOKS: tuple[Callable[[str], Iterator[Found]], ...] = (_emails, _ibans, _cards, _national, _addresses, _phones)
