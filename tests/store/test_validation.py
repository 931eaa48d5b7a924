"""JSON becomes dataclasses, or one line that names the field."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from clipsieve.store.json_text import DEEPEST, parse_json
from clipsieve.store.validation import (
    Count,
    FamilyName,
    Hash,
    Pattern,
    Range,
    ScorerName,
    ShardName,
    Slug,
    decode,
)


@dataclass(frozen=True)
class Part:
    name: ShardName
    rows: Count = 0


@dataclass(frozen=True)
class Whole:
    """A value of each kind."""

    text: str
    number: float
    switch: bool
    parts: tuple[Part, ...]
    by_name: Mapping[FamilyName, Part]
    hash: Hash | None = None
    metric: Literal["cosine", "euclidean"] = "cosine"
    anything: Mapping[str, Any] = field(default_factory=dict)


SOUND: dict[str, Any] = {
    "text": "é",
    "number": 1,
    "switch": False,
    "parts": [{"name": "a", "rows": 3}],
    "by_name": {"clip": {"name": "b"}},
    "hash": "0a" * 4,
    "anything": {"x": [1, {"y": None}]},
}


def test_a_sound_value_is_a_dataclass_with_defaults():
    assert decode(Whole, SOUND) == Whole(
        "é", 1, False, (Part("a", 3),), {"clip": Part("b")}, "0a" * 4, "cosine", SOUND["anything"]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": 1}, r"text must be text, is 1"),
        ({"text": None}, r"text must be text, is None"),
        ({"text": "x" * 70_000}, r"text must be text of at most 65536 characters"),
        ({"text": "a\0"}, r"text must be text of at most"),
        ({"number": "1"}, r"number must be a number, is '1'"),
        ({"number": True}, r"number must be a number, is True"),
        ({"number": 10**400}, r"number must be a finite number"),
        ({"switch": 1}, r"switch must be true or false, is 1"),
        ({"parts": {}}, r"parts must be a list, is \{\}"),
        ({"parts": [[]]}, r"parts\[0\] must be an object, is \[\]"),
        ({"parts": [{"rows": 1}]}, r"parts\[0\]\.name is missing"),
        ({"parts": [{"name": "a", "rows": -1}]}, r"parts\[0\]\.rows must be from 0 to"),
        ({"parts": [{"name": "a", "rows": 1.0}]}, r"parts\[0\]\.rows must be a whole number"),
        ({"parts": [{"name": "a", "rows": True}]}, r"parts\[0\]\.rows must be a whole number"),
        ({"parts": [{"name": "../a"}]}, r"parts\[0\]\.name '\.\./a' is not a name of clipsieve's"),
        ({"by_name": {"A": {"name": "a"}}}, r"a name in by_name 'A' is not a name"),
        ({"by_name": []}, r"by_name must be an object, is \[\]"),
        ({"hash": "0A0A0A0A"}, r"hash '0A0A0A0A' is not a name"),
        ({"hash": 7}, r"hash must be text, is 7"),
        ({"metric": "l1"}, r"metric must be one of"),
        ({"metric": []}, r"metric must be one of"),
        ({"surplus\x1b": 1}, r"has a field 'surplus\\x1b' that is not known here"),
    ],
)
def test_a_wrong_value_is_refused_with_its_field(change, message):
    with pytest.raises(ValueError, match=message) as error:
        decode(Whole, SOUND | change)
    assert len(str(error.value)) < 300 and str(error.value).isprintable()


@pytest.mark.parametrize("value", [None, 1, "x", [], True])
def test_what_is_no_object_is_refused(value):
    with pytest.raises(ValueError, match="must be an object"):
        decode(Whole, value)


BAD_NAMES = ("", "..", "../x", "a/b", ".a", 'a"', "a'b", "a\n", "a\0", "x" * 300, "a b;", "*")


@pytest.mark.parametrize("kind", [FamilyName, ScorerName, Hash, Slug])
@pytest.mark.parametrize("name", BAD_NAMES)
def test_no_name_leaves_its_quotes_or_folder(kind, name):
    with pytest.raises(ValueError, match="is not a name of clipsieve's"):
        decode(kind, name.replace("\0", "\x01"))


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".a", "a\n", "x" * 300, "a\\b"])
def test_a_shard_stays_in_its_folder(name):
    with pytest.raises(ValueError, match="is not a name of clipsieve's"):
        decode(ShardName, name)


@pytest.mark.parametrize("name", ["00000", "a__b", "my%20photos%7E1", "%", "été", "x@1=2+3"])
def test_names_of_shards_are_accepted(name):
    assert decode(ShardName, name) == name


def test_rules_apply_in_order():
    kind = Annotated[str, Pattern("[a-z]+")]
    assert decode(tuple[kind, ...], ["a", "b"]) == ("a", "b")
    assert decode(Annotated[int, Range(1, 2)] | None, None) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("NaN", "is no number of JSON"),
        ("[-Infinity]", "is no number of JSON"),
        ('{"a": 1, "a": 2}', "key 'a' stands twice"),
        ("[" * 100_000, "nested more than"),
        ('{"a":' * 70 + "1" + "}" * 70, "nested more than"),
        ("1" * 5000, "digits"),
        (b"\xff", "utf-8"),
        (b'"\xed\xa0\x80"', "utf-8"),
    ],
)
def test_json_that_nobody_writes_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_json_as_deep_as_allowed_is_read():
    text = "[" * DEEPEST + "]" * DEEPEST
    assert parse_json(text) == json.loads(text)
