"""Captions that a reader would call the same have one form."""

import re
import unicodedata

import numpy as np
import pytest

from clipsieve.audit.captions import normalised, words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Birthday Cake", "birthday cake"),
        ("birthday  cake", "\tbirthday\n cake "),
        ("birthday\u00a0cake", "birthday\u3000cake"),  # no-break and ideographic blanks
        ("birthday cake", '«"birthday cake!"»...'),
        ("birthday cake", " - birthday cake - "),
        ("birth\u200bday cake", "\ufeffbirthday cake"),  # zero-width blank, byte order mark
        ("\uff22irthday cake", "birthday cake"),  # full width
        ("\ufb01ne cake", "fine cake"),  # ligature
        ("Straße", "STRASSE"),
        ("café", "cafe\u0301"),
        ("ΟΔΟΣ", "οδος"),
    ],
)
def test_same_captions_have_one_form(one, other):
    assert normalised(one) == normalised(other) is not None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("birthday cake", "birthdaycake"),
        ("birthday cake", "birthday, cake"),
        ("café", "cafe"),
        ("cake 🎂", "cake"),
        ("cake $5", "cake 5"),
        ("photo 1", "photo 2"),
    ],
)
def test_different_captions_stay_different(one, other):
    assert normalised(one) != normalised(other)


@pytest.mark.parametrize("text", [None, "", "  ", "\u200b", "...", ' - "!" ', "\u00a0\n"])
def test_nothing_left_is_none(text):
    assert normalised(text) is None


def test_form_of_a_form_is_itself():
    rng = np.random.default_rng(0)
    blocks = [(32, 127), (0xA0, 0x250), (0x370, 0x590), (0x1F00, 0x2070), (0xFB00, 0xFFF0)]
    for _ in range(3000):
        low, high = blocks[rng.integers(len(blocks))]
        text = "".join(map(chr, rng.integers(low, high, rng.integers(1, 9))))
        form = normalised(text)
        assert form is None or normalised(form) == form


def test_form_equals_the_rules_applied_one_by_one():
    rng = np.random.default_rng(1)
    alphabet = list("aBß Σ.,!-\"'()\u00a0\u200b\u00e9\u0301\uff21ﬁ🎂_ ")
    for _ in range(2000):
        text = "".join(rng.choice(alphabet, rng.integers(0, 12)))
        left = "".join(c for c in text if unicodedata.category(c) != "Cf")
        left = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", left).casefold())
        left = " ".join(left.split())
        punctuation = "".join(c for c in set(left) if unicodedata.category(c).startswith("P"))
        assert (normalised(text) or "") == left.strip(punctuation + " ")


def naive_normalised(text):
    """The rules, character by character, without a look at what the text is made of."""
    left = "".join(char for char in text if unicodedata.category(char) != "Cf")
    left = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", left).casefold())
    form = ""
    for char in left:
        if not char.isspace():
            form += char
        elif form and form[-1] != " ":
            form += " "

    def is_edge(char):
        return char == " " or unicodedata.category(char).startswith("P")

    while form and is_edge(form[0]):
        form = form[1:]
    while form and is_edge(form[-1]):
        form = form[:-1]
    return form or None


def test_form_of_ascii_equals_the_rules_character_by_character():
    rng = np.random.default_rng(2)
    for _ in range(4000):
        text = "".join(map(chr, rng.integers(0, 128, rng.integers(0, 10))))
        assert normalised(text) == naive_normalised(text), repr(text)
    for code in range(128):  # every character at both ends and within
        text = f"{chr(code)}a{chr(code)}b{chr(code)}"
        assert normalised(text) == naive_normalised(text), repr(text)


def test_one_character_beyond_ascii_changes_nothing_but_itself():
    rng = np.random.default_rng(3)
    others = "éß\u00a0\u200b\u0130\u1e9e\ufb03\u2028«»\u3000\u0345"
    for _ in range(4000):
        chars = list(map(chr, rng.integers(0, 128, rng.integers(1, 8))))
        chars.insert(rng.integers(len(chars) + 1), others[rng.integers(len(others))])
        text = "".join(chars)
        assert normalised(text) == naive_normalised(text), repr(text)


def test_words_are_runs_of_letters_digits_and_underscores_but_no_numbers():
    rng = np.random.default_rng(5)
    for _ in range(500):
        token = "".join(rng.choice(list("ab1_-/'é\u0663猫"), rng.integers(0, 12)))
        runs = re.split("[-/']", token)
        assert words(token) == [run for run in runs if run and not run.isdigit()]
