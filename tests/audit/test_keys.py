"""Rows that have something in common have equal keys, and others do not."""

import numpy as np
import pyarrow as pa
import pytest

from clipsieve.audit import keys as keys_module
from clipsieve.audit.captions import normalised, words
from clipsieve.audit.keys import MOST_TOKENS, NO_KEY, SINGLE, Kind, hosts, row_keys, templates


def keys_of(captions=None, urls=None, image_bytes=None, hashes=None):
    """Keys of rows of which some columns are given; the others hold nothing."""
    given = (captions, urls, image_bytes, hashes)
    count = next(len(column) for column in given if column is not None)
    hashes = hashes or [None] * count
    return row_keys(
        captions or [None] * count,
        urls or [None] * count,
        np.array(image_bytes or [0] * count, np.uint64),
        np.array([each or 0 for each in hashes], np.uint64),
        np.array([each is not None for each in hashes], bool),
    )


def partition(labels):
    """Which of a sequence are equal, as sets of places; None is equal to nothing."""
    places: dict[object, list[int]] = {}
    for place, label in enumerate(labels):
        if label is not None:
            places.setdefault(label, []).append(place)
    return sorted(places.values())


def partition_of(keys, kind):
    """Which rows share a key of a kind."""
    rows, own = keys.of_kind(kind)
    places: dict[int, list[int]] = {}
    for row, key in zip(rows.tolist(), own.tolist(), strict=True):
        places.setdefault(key, []).append(row)
    return sorted(places.values())


def naive_words(caption):
    """Different words among the first parts of a caption."""
    form = normalised(caption)
    if form is None:
        return set()
    return {word for token in form.split(" ")[:MOST_TOKENS] for word in words(token)}


def random_captions(count, seed):
    rng = np.random.default_rng(seed)
    parts = [
        "Cat",
        "cat",
        "CAT!",
        "dog",
        "a-b",
        "img_1",
        "img_2",
        "7",
        "é",
        "...",
        "\u3000",
        "x" * 99,
    ]
    captions = [
        " ".join(rng.choice(parts, rng.integers(0, 6))) if rng.random() > 0.1 else None
        for _ in range(count)
    ]
    return [*captions, " ".join(f"w{n} dog" for n in range(MOST_TOKENS)), "", None]


def test_equal_captions_in_another_writing_share_a_key_and_different_ones_do_not():
    captions = ["A cat!", "a  CAT", "\uff21 cat", "a cat on a mat", "acat", None, "...", ""]
    keys = keys_of(captions).single[Kind.CAPTION]
    assert keys[0] == keys[1] == keys[2] != NO_KEY
    assert len(set(keys[:5].tolist())) == 3
    assert (keys[5:] == NO_KEY).all()


@pytest.mark.parametrize("seed", range(3))
def test_captions_share_keys_as_their_normalised_texts_are_equal(seed):
    captions = random_captions(300, seed)
    keys = keys_of(captions)
    assert partition_of(keys, Kind.CAPTION) == partition(map(normalised, captions))


def test_captions_that_differ_in_digits_share_a_template():
    captions = ["IMG 0042.jpg", "img 7.JPG", "img 7 8.jpg", "no digits", "no digits", None]
    keys = keys_of(captions).single[Kind.CAPTION_TEMPLATE]
    assert keys[0] == keys[1] != keys[2]
    assert (keys[:3] != NO_KEY).all()
    # The group of a caption without digits is that of the caption itself.
    assert (keys[3:] == NO_KEY).all()


def hash_texts(texts):
    """The keys of a list of texts."""
    return keys_module.hash_texts(pa.array(texts, pa.string()))


def test_a_template_has_one_sign_for_every_run_of_ascii_digits():
    rng = np.random.default_rng(4)
    texts = ["".join(rng.choice(list("019a#. \u0663²"), rng.integers(0, 12))) for _ in range(500)]
    for text, found in zip(texts, templates(pa.array(texts)).to_pylist(), strict=True):
        naive = ""
        for place, char in enumerate(text):
            if char not in "0123456789":
                naive += char
            elif not place or text[place - 1] not in "0123456789":
                naive += "#"
        assert found == (naive if naive != text else None)


@pytest.mark.parametrize("seed", range(3))
def test_words_are_those_of_each_caption_once(seed):
    captions = random_captions(300, seed)
    keys = keys_of(captions)
    rows, own = keys.of_kind(Kind.CAPTION_WORD)
    assert (np.diff(rows) >= 0).all()
    naive = [(row, word) for row, caption in enumerate(captions) for word in naive_words(caption)]
    known = dict(
        zip((w for _, w in naive), hash_texts([w for _, w in naive]).tolist(), strict=True)
    )
    assert len(set(known.values())) == len(known)
    expected = sorted((row, known[word]) for row, word in naive)
    assert sorted(zip(rows.tolist(), own.tolist(), strict=True)) == expected


@pytest.mark.parametrize("captions", [[], [None, None], ["...", "7 8"]])
def test_rows_without_words_have_none(captions):
    rows, own = keys_of(captions).of_kind(Kind.CAPTION_WORD)
    assert len(rows) == len(own) == 0


def test_hosts_are_those_of_the_address_without_port_user_and_case():
    urls = {
        "https://Images.Example.com:8080/a.jpg": "images.example.com",
        "http://images.example.com": "images.example.com",
        "http://user:pass@b.org/x/y": "b.org",
        "s3://bucket/key": "bucket",
        "http://[::1]/a": "::1",
        "http://[::1/a": None,
        "http:///a": None,
        "http://:80/a": None,
        "a.jpg": None,
        "/a/b/c": None,
        "": None,
    }
    assert hosts([*urls, None]) == [*urls.values(), None]


def test_rows_share_a_host_whatever_else_is_in_the_address():
    urls = ["http://a.org/1", "https://A.org/2?q", "http://b.org/1", None, "c.jpg"]
    keys = keys_of(urls=urls)
    assert partition_of(keys, Kind.HOST) == [[0, 1], [2]]


def test_a_row_that_has_nothing_has_no_key():
    keys = keys_of([None])
    assert {kind: int(keys.single[kind][0]) for kind in SINGLE} == dict.fromkeys(SINGLE, 0)
    assert all(not len(rows) for kind in SINGLE for rows in keys.of_kind(kind))
    assert not keys.has_bits.any()


def test_a_black_picture_has_a_key_of_its_own():
    keys = keys_of(hashes=[0, 0, None, 5])
    own = keys.single[Kind.IMAGE_HASH]
    assert own[0] == own[1] != NO_KEY
    assert own[2] == NO_KEY and own[3] not in (NO_KEY, own[0])
    assert keys.has_bits.tolist() == [True, True, False, True]
    assert partition_of(keys, Kind.IMAGE_HASH) == [[0, 1], [3]]


def test_different_hashes_have_different_keys_though_they_differ_in_one_bit():
    hashes = [1 << bit for bit in range(64)] + [0, (1 << 64) - 1]
    own = keys_of(hashes=hashes).single[Kind.IMAGE_HASH]
    assert len(set(own.tolist())) == len(hashes)


def test_bytes_are_their_own_keys():
    keys = keys_of(image_bytes=[0, 7, 7, 1 << 63])
    rows, own = keys.of_kind(Kind.IMAGE_BYTES)
    assert (rows.tolist(), own.tolist()) == ([1, 2, 3], [7, 7, 1 << 63])


def test_texts_have_the_same_keys_in_any_column():
    texts = [None, "b", "a", "b", None]
    keys = hash_texts(texts)
    assert [keys[n] for n in (1, 2)] == hash_texts(["b", "a"]).tolist()
    assert partition(None if key == NO_KEY else key for key in keys.tolist()) == [[1, 3], [2]]
    assert len(hash_texts([])) == 0 and hash_texts([None]).tolist() == [0]
