"""What a person asks for with a word of a text message.

English: the words of CTIA's Messaging Principles and Best Practices (5.1.3) as Twilio handles them by default
(https://help.twilio.com/articles/223134027), where a message must consist of one alone. In other languages: the words
that carriers and providers ask for beside them; none is an everyday answer such as yes or no.
"""

import unicodedata

from apps.providers.messages import Keyword

_WORDS: dict[Keyword, str] = {
    "stop": """stop stopall unsubscribe cancel end quit revoke optout
        arret arrett arrete arreter desabonner desinscrire
        alto parar baja detener cancelar
        stopp abmelden abbestellen
        sair fermati disiscrivi annulla
        afmelden stoppen avsluta stopper avmeld iptal
        стоп отписаться στοπ توقف إلغاء 停止 退订 退訂 ストップ 수신거부""",
    "start": """start yes unstop
        demarrer reprendre
        iniciar empezar reanudar
        starten anmelden
        comecar inizia aanmelden""",
    "help": """help info
        aide ayuda hilfe ajuda aiuto hulp помощь""",
}
_LONGEST = 64


def _fold(text: str) -> str:
    return "".join(character for character in unicodedata.normalize("NFKD", text) if character.isalnum()).casefold()


_KEYWORDS = {_fold(word): keyword for keyword, words in _WORDS.items() for word in words.split()}


def find_keyword(text: str) -> Keyword:
    """The wish that ``text`` stands for, ``""`` if it is anything but one keyword. Case, accents, blanks and
    punctuation do not count: ``"Stop."``, ``"STOP ALL"`` and ``"Arrêt"`` are all heard."""
    return _KEYWORDS.get(_fold(text), "") if len(text) <= _LONGEST else ""
