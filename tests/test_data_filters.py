"""Filters: what each rejects, what it leaves alone, and what a recipe may not ask of one."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from understudy.data.errors import BadInput
from understudy.data.filters import AnyFilter, built
from understudy.data.rows import Example

from .test_data_contamination import DATASETS

FILTERS: TypeAdapter[list] = TypeAdapter(list[AnyFilter])
ODD = [
    *("\0", "\u202eabc\u202c", "👍🏽", "👍🏽 👍🏽 👍🏽 👎", "12 34 56 78", "हिन्दी में लिखा", "我的包裹在哪里", "e\u0301"),
    *("a\tb\n\n\nc", " " * 40, "", "\ufffd\ufeff", "\u200bzero\u200bwidth"),
]


def row(given: str, said: str, origin: str = "generated") -> Example:
    return Example("r7", given, said, root="r7", side="train", origin=origin)


def check(folder: Path = Path(), **fields) -> Callable[..., str | None]:
    [made] = built(FILTERS.validate_python([fields]), folder).values()
    return lambda given, said, **other: made(row(given, said, **other))


def test_length_counts_words_and_characters_of_either_part():
    words = check(kind="length", words=[2, 3])
    assert words("one", "") == "1 words: one"
    assert words("one two", "") is None
    assert words("one two three four", "") == "4 words: one two three four"
    assert words("我的包裹在哪里", "") == "7 words: 我的包裹在哪里"
    assert check(kind="length", of="output", characters=[1, 5])("", "abcdef") == "6 characters: abcdef"


DECLINED = [
    "I'm sorry, but I can't assist with that.",
    "I apologize, but I cannot help with that request.",
    "Unfortunately, I cannot assist with that.",
    "I'm unable to help with that.",
    "I'm not able to provide that.",
    "As a language model, I can't do this.",
    "I'm sorry, but as an AI language model, I cannot provide medical advice.",
    "I am sorry, I cannot fulfill this request.",
    "Sorry, but I can't help with that.",
    "I cannot and will not generate that content.",
    "I can\u2019t help with that request.",
    "I won't be able to help with that.",
    "I must decline this request.",
    "I'm just an AI and cannot do that",
    "I am an AI assistant and I do not have access to",
    "I cannot fulfill this request. I am programmed to be",
    "My apologies, but I'm unable to assist with this",
    "I don't feel comfortable writing this content.",
    "I\u2019m really sorry, but I can\u2019t assist with that.",
    "I'm sorry, but I am not able to answer that question.",
    "**I'm sorry, but I can't provide that.**",
    "Sorry, as an AI I cannot",
    "I'm sorry, I can't comply with that.",
    "I can't assist with this.",
    "I apologize, but I am unable to generate such content.",
    "I'm afraid I can't do that.",
    "I'm sorry, but I can't help you with that.",
    "I cannot provide this information.",
    "I'm sorry for the inconvenience, but I cannot answer this question.",
    "I'm not able to engage in that.",
    "I cannot write this.",
    "I'm so sorry, but I cannot process your request.",
    "I cannot comply with this request",
    "I am unable to provide that information.",
]
NOT_DECLINED = [
    "I'm sorry but I can't log in",
    "sorry, I cannot find my parcel",
    "I can't help but wonder where my refund is",
    "I am unable to pay by card",
    "I cannot create an account, the page hangs",
    "As an artist I need two of them",
    "Can an AI language model answer this?",
    "I'm sorry, but I can't answer the phone right now",
    "I'm sorry but I can't continue my subscription",
    "Sorry, I can't do that with my card",
    "I won't comply with your fees",
    "I cannot complete this purchase",
    "I can't write a review on your page",
    "I cannot answer this security question",
    "I'm unable to provide proof of address",
    "I can't create this account twice",
    "I am afraid my card was stolen",
    "Unfortunately I can't use the app",
    "I can't process the return label",
    "I won't support that tariff anymore",
    "I can't do this online?",
    "I must say I am disappointed",
    "I have to decline the charge",
    "I am sorry, my mistake, please cancel",
    "i'm an airline customer",
    "I cannot share the tracking link",
    "I can't give the code that you sent",
    "Sorry to bother you, I can't do the transfer in the app",
    "I'm unable to complete the top-up",
    "I'm not able to complete your form",
    "I couldn't finish the order",
]


def test_refusals_of_a_model_are_found_and_those_of_people_are_not():
    refused = check(kind="refusal")
    assert [said for said in DECLINED if refused("a message", said) != said[:80] or not refused(said, "billing")] == []
    assert [written for written in NOT_DECLINED if refused(written, "billing")] == []


def test_a_person_may_decline_in_an_input_that_nobody_wrote_for_us():
    refused = check(kind="refusal")
    written = "I cannot provide that information. I lost my ID."
    assert refused(written, "other", origin="generated") == written
    assert refused(written, "other", origin="unlabeled") is None
    assert refused("where is my parcel", "I cannot comply with this request", origin="unlabeled") is not None


def test_repetition_is_found_in_what_goes_round_in_circles_only():
    repeated = check(kind="repetition")
    assert repeated("", "the cat sat on the mat " * 5) is not None
    assert repeated("", "yes yes yes yes yes yes yes yes") is not None
    assert repeated("", "where is my order and where is my refund for the order") is None
    assert repeated("", "no no no") is None
    assert repeated("", "") is None
    assert repeated("", "我的包裹在哪里 " * 6) is not None
    assert repeated("", "我的包裹还没到 我的包裹在哪里") is None


def test_real_messages_neither_decline_nor_repeat_themselves():
    if not DATASETS.exists():
        pytest.skip("needs the real messages of ../shared/datasets")
    from .benchmarks.contamination import datasets

    filters = [{"kind": "refusal"}, {"kind": "repetition", "of": "input"}]
    checks = list(built(FILTERS.validate_python(filters), Path()).values())
    for name, train, _ in datasets():
        rows = [row(text, label) for text, label in random.Random(0).sample(train, 2000)]
        assert [one.input for one in rows if any(made(one) for made in checks)] == [], name


def test_a_pattern_must_be_found_or_must_not():
    assert check(kind="pattern", must=r"^\d+$")("", "12") is None
    assert check(kind="pattern", must=r"^\d+$")("", "12 pieces") == "not found in: 12 pieces"
    assert check(kind="pattern", of="input", must_not="(?i)dear")("Dear all", "x") == "found: Dear"


def test_a_pattern_that_would_run_for_ever_is_refused():
    with pytest.raises(BadInput) as caught:
        check(kind="pattern", must="(a|aa)+$")("", "a" * 60 + "b")
    assert str(caught.value) == (
        "curate.filters: pattern '(a|aa)+$' takes over 2 s for row r7; write it without repeating what repeats itself"
    )


def test_the_number_that_is_the_answer_is_within_bounds():
    number = check(kind="number", least=0, most=100)
    assert number("", " 12.5 ") is None
    assert number("", "1,000 - 950 = 50\n#### 50") is None
    assert number("", "1,000") == "out of bounds: 1000"
    assert number("", "-3 %") == "out of bounds: -3"
    assert number("", "twelve") == "no number: twelve"
    assert check(kind="number")("", "nan") == "no number: nan"


FOREIGN = {
    "de": [
        "wo bleibt meine Bestellung?",
        "ich möchte mein Geld zurück",
        "Karte wurde am Automaten eingezogen",
        "kann ich die Adresse noch ändern",
        "das Paket kam beschädigt an",
    ],
    "fr": [
        "où est mon colis ?",
        "je voudrais être remboursé",
        "ma carte a été avalée",
        "puis-je changer l'adresse de livraison",
        "le produit est arrivé cassé",
    ],
    "es": [
        "¿dónde está mi pedido?",
        "quiero que me devuelvan el dinero",
        "el cajero se tragó mi tarjeta",
        "puedo cambiar la dirección de envío",
        "el producto llegó roto",
    ],
    "it": [
        "dov'è il mio pacco?",
        "vorrei un rimborso",
        "il bancomat ha trattenuto la carta",
        "posso cambiare l'indirizzo di consegna",
        "il prodotto è arrivato rotto",
    ],
    "nl": [
        "waar blijft mijn bestelling?",
        "ik wil mijn geld terug",
        "mijn pas is ingeslikt",
        "kan ik het adres nog wijzigen",
        "het pakket is beschadigd aangekomen",
    ],
    "pt": [
        "onde está minha encomenda?",
        "quero o meu dinheiro de volta",
        "o caixa engoliu meu cartão",
        "posso mudar o endereço de entrega",
        "o produto chegou quebrado",
    ],
    "pl": [
        "gdzie jest moja paczka?",
        "chcę zwrotu pieniędzy",
        "bankomat zatrzymał moją kartę",
        "czy mogę zmienić adres dostawy",
        "produkt przyszedł uszkodzony",
    ],
    "sv": [
        "var är min beställning?",
        "jag vill ha pengarna tillbaka",
        "automaten åt upp mitt kort",
        "kan jag ändra leveransadressen",
        "varan kom trasig",
    ],
    "zh": [
        "我的包裹在哪里",
        "我要退款",
        "银行卡被吞了怎么办",
        "可以修改收货地址吗",
        "为什么扣了两次钱",
    ],
    "ja": [
        "荷物はどこですか",
        "返金してください",
        "カードが戻ってきません",
        "住所を変更できますか",
        "アプリがすぐ落ちます",
    ],
    "ru": [
        "где моя посылка?",
        "хочу вернуть деньги",
        "банкомат съел мою карту",
        "можно изменить адрес доставки",
        "почему списали два раза",
    ],
}


def test_messages_in_other_languages_are_found_and_real_english_ones_are_kept():
    english = check(kind="language", only=["en"])
    kept = [text for texts in FOREIGN.values() for text in texts if not english(text, "")]
    assert len(kept) <= 1, kept
    wanted = check(kind="language", only=list(FOREIGN))
    assert [text for texts in FOREIGN.values() for text in texts if wanted(text, "")] == []
    if not DATASETS.exists():
        pytest.skip("needs the real messages of ../shared/datasets")
    from .benchmarks.contamination import datasets

    for name, train, _ in datasets():
        found = [text for text, _ in random.Random(0).sample(train, 1500) if english(text, "")]
        assert len(found) <= 6, (name, found)


def test_another_language_is_found_in_a_short_message():
    english = check(kind="language", only=["en"])
    for text in (
        "Wo ist mein Paket?",
        "Quiero mi dinero de vuelta",
        "où est mon colis",
        "我的包裹在哪里",
        "где моя посылка",
    ):
        assert english(text, "") is not None, text
    for text in (
        "where is my parcel",
        "Can I top up by card?",
        "WHERE IS MY REFUND",
        "what is the wether in Ulaanbaatar",
    ):
        assert english(text, "") is None, text
    assert english("Wo ist mein Paket?", "") == "de: Wo ist mein Paket?"
    assert check(kind="language", only=["de", "en"])("Wo ist mein Paket?", "") is None


def test_what_is_too_short_to_tell_a_language_is_kept():
    english = check(kind="language", only=["en"])
    for text in (
        "ok",
        "danke",
        "muchas gracias",
        "👍🏽 👍🏽 👍🏽 👍🏽",
        "12 34 56 78",
        "€ 12,50 - 3 ?",
        "XQ-12 AB99 ZZ/7",
        "\0 \u202e \u202c",
        "好的",
        "",
    ):
        assert english(text, "") is None, text


def test_a_function_of_ones_own_decides(tmp_path):
    (tmp_path / "checks.py").write_text(
        "WORDS = {'good'}\n"
        "def is_sound(input, output):\n"
        "    return output in WORDS\n"
        "def says_why(input, output):\n"
        "    return True if output in WORDS else f'{output} is no word of ours'\n"
        "def fails(input, output):\n"
        "    return 1 / 0\n"
        "def returns_none(input, output):\n"
        "    pass\n"
        "def leaves(input, output):\n"
        "    raise SystemExit(3)\n"
    )
    assert check(tmp_path, kind="function", path="checks.py:is_sound")("a", "good") is None
    assert check(tmp_path, kind="function", path="checks.py:is_sound")("a", "bad") == "is_sound said False"
    assert check(tmp_path, kind="function", path="checks.py:says_why")("a", "bad") == "bad is no word of ours"

    def refusal(name: str) -> str:
        with pytest.raises(BadInput) as caught:
            check(tmp_path, kind="function", path=name)("some\ninput", "x")
        return str(caught.value).replace(str(tmp_path), "")

    assert refusal("checks.py:fails") == (
        "/checks.py: fails: ZeroDivisionError: division by zero, for row r7, 'some input'; mend it"
    )
    assert refusal("checks.py:leaves") == "/checks.py: leaves: SystemExit: 3, for row r7, 'some input'; mend it"
    assert refusal("checks.py:returns_none") == (
        "/checks.py: returns_none returned NoneType; expected True, False, or what is wrong"
    )
    assert refusal("checks.py:nothing") == (
        "curate.filters: /checks.py: has no function 'nothing'; add it, or correct the name"
    )
    assert refusal("other.py:nothing").startswith("curate.filters: /other.py: cannot be read: No such file")
    (tmp_path / "leaves.py").write_text("import sys; sys.exit('enough')\n")
    assert refusal("leaves.py:f") == "curate.filters: /leaves.py: SystemExit: enough; mend it"
    (tmp_path / "broken.py").write_text("def f(:\n")
    assert "curate.filters: /broken.py: SyntaxError: " in refusal("broken.py:f")


def test_a_file_of_ones_own_may_hold_what_any_module_holds(tmp_path):
    (tmp_path / "json.py").write_text(  # a name that others have too
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "import json\n"
        "@dataclass\n"
        "class Team:\n"
        "    name: str\n"
        "def is_one(input, output):\n"
        "    return json.loads('true') and Team(output).name == 'billing'\n"
    )
    assert check(tmp_path, kind="function", path="json.py:is_one")("a", "billing") is None


def test_odd_rows_pass_through_every_filter():
    filters = [
        {"kind": "length", "characters": [0, 99]},
        {"kind": "refusal"},
        {"kind": "repetition"},
        {"kind": "pattern", "must_not": "never"},
        {"kind": "language", "only": ["en", "hi", "zh"]},
    ]
    checks = built(FILTERS.validate_python(filters), Path())
    for text in ODD:
        for name, made in checks.items():
            assert made(row(text, text)) is None, (name, text)


def test_a_kind_that_recurs_is_counted_apart():
    filters = [{"kind": "length", "words": [1, 9]}, {"kind": "length", "of": "output", "words": [1, 2]}]
    assert list(built(FILTERS.validate_python(filters), Path())) == ["length", "length-2"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kind": "pattern", "must": "("}, "'(' is not a regular expression: missing ) at position 1; mend it"),
        ({"kind": "pattern"}, "needs one of `must` and `must_not`"),
        ({"kind": "length"}, "says neither `words` nor `characters`; add one, such as words: [3, 60]"),
        ({"kind": "length", "words": [5, 2]}, "[5, 2] holds no length; write the fewest, then the most"),
        ({"kind": "function", "path": "checks.py"}, "should match pattern"),
        ({"kind": "language", "only": ["english"]}, "should match pattern"),
    ],
)
def test_what_a_filter_cannot_be_is_refused(fields, said):
    with pytest.raises(ValidationError) as caught:
        FILTERS.validate_python([fields])
    assert said in str(caught.value)


def test_a_language_that_nobody_speaks_is_refused():
    with pytest.raises(BadInput) as caught:
        check(kind="language", only=["qq"])
    assert str(caught.value).startswith("curate.filters: language 'qq' is not known; expected one of ace, af, am, ")


def test_without_its_library_the_language_filter_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with pytest.raises(BadInput) as caught:
        check(kind="language", only=["en"])
    assert str(caught.value) == ("curate.filters: `language` needs py3langid; `pip install 'understudy[language]'`")
