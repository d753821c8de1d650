import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.providers.adapters.keywords import find_keyword
from apps.providers.adapters.sms_segments import Segments, count_segments
from apps.providers.sandbox import gsm


@pytest.mark.parametrize(
    ("text", "is_unicode", "count"),
    [
        ("", False, 1),
        ("a" * 160, False, 1),
        ("a" * 161, False, 2),  # 153 + 8
        ("a" * 306, False, 2),  # 2 x 153
        ("a" * 307, False, 3),
        ("€" * 80, False, 1),  # two septets each
        ("€" * 81, False, 2),  # 76 fit into 153
        ("a" * 152 + "€" + "a" * 10, False, 2),  # the escape and its septet stay together
        ("a" * 151 + "€" * 10, False, 2),  # 151 + 1 x 2 = 153, then 18
        ("@£$¥èéùìòÇØøÅåΔΦΓΛΩΠΨΣΘΞÆæßÉ¡¤§¿ÄÖÑÜäöñüà\n\r", False, 1),
        ("^{}\\[~]|€\f", False, 1),
        ("`", True, 1),  # not in the GSM alphabet
        ("ç", True, 1),  # its capital is
        ("ж" * 70, True, 1),
        ("ж" * 71, True, 2),
        ("ж" * 134, True, 2),  # 2 x 67
        ("ж" * 135, True, 3),
        ("🙂" * 35, True, 1),  # two units each
        ("🙂" * 36, True, 2),  # 33 fit into 67
        ("🙂" * 67, True, 3),  # 33 + 33 + 1
        ("ж" * 66 + "🙂" * 5, True, 2),  # a pair is not split: 66, then 10
    ],
)
def test_segments(text: str, is_unicode: bool, count: int):
    assert count_segments(text) == Segments(is_unicode, count)


@given(st.text(st.sampled_from("abc€[ жЖ🙂é\n`"), max_size=400))
def test_two_ways_of_counting_agree(text: str):
    found = count_segments(text)
    assert (found.count, found.is_unicode) == (gsm.count_segments(text), not gsm.is_basic(text))


@pytest.mark.parametrize(
    ("text", "keyword"),
    [
        *((word, "stop") for word in ("STOP", "STOPALL", "UNSUBSCRIBE", "CANCEL", "END", "QUIT")),
        *((word, "start") for word in ("START", "YES", "UNSTOP")),
        *((word, "help") for word in ("HELP", "INFO")),
        *((word, "stop") for word in ("stop", " Stop.\n", "“STOP”", "Stop all!", "opt-out", "ＳＴＯＰ")),
        *(
            (word, "stop")
            for word in ("Arrêt", "ARRET", "ALTO", "Baja", "Stopp", "Abmelden", "СТОП", "停止", "ストップ")
        ),
        *((word, "start") for word in ("démarrer", "Começar")),
        *((word, "help") for word in ("Aide", "AYUDA", "hilfe")),
        *((word, "") for word in ("", "please stop", "stop it", "yes please", "no", "oui", "si", "stop1", "1", "🙂")),
        ("stop" + " " * 80, ""),
    ],
)
def test_keywords(text: str, keyword: str):
    assert find_keyword(text) == keyword


@given(st.text(st.characters(min_codepoint=0, max_codepoint=0x10FFFF, exclude_categories=()), max_size=70))
def test_any_text_has_a_meaning_or_none(text: str):
    assert find_keyword(text) in ("", "stop", "start", "help")
