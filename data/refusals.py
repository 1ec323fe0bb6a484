"""How models decline: in few words, which people in need of help hardly use.

"I'm sorry, but I can't" is how both begin. A model goes on with what was asked of it ("assist with that", "fulfill
this request"), or says what it is; a customer with what does not work ("log in", "answer the phone right now").
"""

from __future__ import annotations

import re

_SORRY = (
    r"(?:(?:i'?m |i am |we are )?(?:\w+ )?sorry|(?:i|my) (?:\w+ )?apolog\w+|unfortunately|i'?m afraid|i am afraid)"
    r"(?: for \w+ \w+)?\W*(?:but |that )?"
)
_MODEL = r"an? (?:ai|artificial intelligence|(?:large )?language model)\b"
_UNABLE = (
    r"(?:can(?:'?t|not| not)(?: and will not)?|won'?t(?: be able to)?|will not|don'?t feel comfortable"
    r"|(?: am|'?m) (?:unable to|not able to|not comfortable))"
)
_END = r"(?:\W*$|[.,:;!]| as\b| because\b| due to\b)"
_REQUEST = (
    r"(?:that|this|these|such|your|the) (?:(?:kind|type|sort) of )?"
    r"(?:requests?|questions?|prompts?|tasks?|topics?|content|information)\b"
)
_ASKED = rf"(?:{_REQUEST}|(?:that|this){_END})"
_SERVE = (
    r"(?:provid|creat|generat|writ|answer|produc|complet|shar|discuss|respond|continu|do|process|fulfil|comply|engag)"
    r"\w*(?: to| with| in)?"
)
_DECLINED = re.compile(
    rf"\W*(?:{_SORRY})?(?:"
    rf"as {_MODEL}|i(?:'?m| am) (?:just |only )?{_MODEL}"
    rf"|i (?:must|have to) decline (?:to\b|{_ASKED})"
    rf"|i ?{_UNABLE} (?:help|assist)(?:ing)?(?: you)?(?: (?:with|in)(?: \w+ing)? {_ASKED}|{_END})"
    rf"|i ?{_UNABLE} {_SERVE} {_ASKED})"
)


def declines(text: str) -> bool:
    """Whether a text begins as a model's refusal does, in English."""
    return _DECLINED.match(text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")) is not None
