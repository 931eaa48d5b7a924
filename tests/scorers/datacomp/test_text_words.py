"""DataComp's text-based filter: tokens as they are, captions that are missing, files of words."""

import numpy as np
import pyarrow as pa
import pytest

from clipsieve.errors import UsageError
from clipsieve.scorers.base import Context, PairBatch
from clipsieve.scorers.datacomp.text_words import TextWords

CONTEXT = Context(4, 0, 100.0)


def write(folder, content):
    (folder / "words.txt").write_bytes(content)
    return str(folder / "words.txt")


def values(path, captions):
    scorer = TextWords(path)
    batch = PairBatch(pa.array([str(at) for at in range(len(captions))]), captions=captions)
    return scorer.score(batch, scorer.load({}, CONTEXT))["caption_has_word"].tolist()


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a dog", True),
        ("a dog, a cat", False),
        ("a Dog", False),
        ("dogs", False),
        ("a\tdog\nand\u2003more", True),
        ("hot dog", True),
        ("caf\u00e9", True),
        ("cafe\u0301", False),
        ("Golden", True),
        ("golden", False),
        ("", False),
        ("  ", False),
        (None, None),
    ],
)
def test_a_caption_passes_if_one_token_is_a_word(tmp_path, caption, expected):
    path = write(tmp_path, "dog\n\n café\r\nGolden".encode())
    assert values(path, [caption]) == [expected]


def test_values_are_those_of_a_plain_loop(tmp_path):
    rng = np.random.default_rng(0)
    words = [f"w{at}" for at in range(50)]
    captions = [" ".join(rng.choice(words, size=rng.integers(0, 9))) for _ in range(200)]
    path = write(tmp_path, "\n".join(words[:5]).encode())
    expected = [any(token in words[:5] for token in caption.split()) for caption in captions]
    assert values(path, captions) == expected and 0 < sum(expected) < 200
    assert values(path, []) == []


def test_the_content_of_the_file_decides_the_revision(tmp_path):
    one = TextWords(write(tmp_path, b"dog\n")).parameters()
    assert one == TextWords(write(tmp_path, b"dog\n")).parameters()
    assert one != TextWords(write(tmp_path, b"cat\n")).parameters()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"dog\nhot dog\n", "line 2 of .*words.txt, 'hot dog', holds 2 words"),
        (b"\n \n", "words.txt holds no word; give one word a line"),
        (b"", "holds no word"),
        (b"caf\xe9\n", "is not UTF-8 text"),
    ],
)
def test_files_that_cannot_be_used_are_refused(tmp_path, content, message):
    with pytest.raises(UsageError, match=message):
        TextWords(write(tmp_path, content)).load({}, CONTEXT)


def test_no_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"datacomp.text_words needs a file of words, and option"):
        TextWords()
    with pytest.raises(UsageError, match="cannot be read"):
        TextWords(str(tmp_path / "nothing")).parameters()
