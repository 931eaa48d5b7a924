"""Forms under which captions are compared: the caption itself, its template, its words."""

import re
import unicodedata

#: White space and the ASCII characters that Unicode calls punctuation: `$+<=>^`|~` are symbols.
_ASCII_EDGES = " !\"#%&'()*,-./:;?@[\\]_{}"
_WORD = re.compile(r"\w+")


def normalised(caption: str | None) -> str | None:
    r"""The form under which captions are compared; None if nothing is left of it.

    Format characters (zero-width and direction marks) are dropped, compatibility forms unified
    (NFKC), case folded, runs of white space made one blank, and white space and punctuation taken
    off both ends.  Punctuation within stays, as do symbols and emoji; accents too: "cafe" and
    "café" are two captions.

    >>> normalised("  Happy\u00a0BIRTHDAY, cake!!! ")
    'happy birthday, cake'
    >>> normalised("\uff26ull Straße") == normalised("FULL\u200b STRASSE")
    True
    >>> normalised("...") is None
    True
    """
    if caption is None:
        return None
    text = caption
    if not text.isascii():
        if not text.isprintable():  # format characters never are
            text = "".join(char for char in text if unicodedata.category(char) != "Cf")
        text = unicodedata.normalize("NFKC", text)
    text = text.casefold()
    if not text.isascii():  # folding may leave a form that NFKC would compose
        text = unicodedata.normalize("NFKC", text)
    text = " ".join(text.split())
    if text.isascii():
        return text.strip(_ASCII_EDGES) or None
    start, end = 0, len(text)
    while start < end and _is_edge(text[start]):
        start += 1
    while start < end and _is_edge(text[end - 1]):
        end -= 1
    return text[start:end] or None


def words(token: str) -> list[str]:
    """The words of a part of a normalised caption without white space.

    A word is a run of letters, digits and underscores; one of digits alone is left out.

    >>> words("cats/dogs-2"), words("#1")
    (['cats', 'dogs'], [])
    """
    return [word for word in _WORD.findall(token) if not word.isdigit()]


def _is_edge(char: str) -> bool:
    """Whether a character is taken off the ends."""
    return not char.isalnum() and (char.isspace() or unicodedata.category(char)[0] == "P")
