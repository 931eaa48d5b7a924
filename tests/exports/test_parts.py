"""Parts of an export are planned from counts."""

import random

from clipsieve.exports.parts import Part, even_parts, one_part, shard_parts


def test_even_parts_hold_every_row_once_in_order():
    rng = random.Random(3)
    for _ in range(200):
        counts = {f"{n:05d}": rng.choice([0, 1, 5, 40]) for n in range(rng.randrange(6))}
        each = rng.choice([1, 3, 7, 1000])
        parts = even_parts(counts, each)
        rows = [(s.shard, at) for p in parts for s in p.spans for at in range(s.first, s.stop)]
        assert rows == [(shard, at) for shard, count in counts.items() for at in range(count)]
        assert [p.rows for p in parts[:-1]] == [each] * len(parts[:-1])
        assert [p.number for p in parts] == list(range(len(parts)))


def test_shards_without_rows_have_no_part_unless_all_are():
    assert [p.name for p in shard_parts({"a": 0, "b": 2, "c": 0})] == ["b"]
    (part,) = shard_parts({"a": 0, "b": 0})
    assert (part.name, part.rows) == ("a", 0)
    assert one_part("x", {"a": 0, "b": 2})[0].rows == 2


def test_a_key_follows_settings_rows_and_the_content_of_shards():
    (part,) = one_part("x", {"a": 3})
    key = part.with_key({"n": 1}, {"a": "1"}).key
    assert part.with_key({"n": 1}, {"a": "1", "b": "2"}).key == key
    assert part.with_key({"n": 2}, {"a": "1"}).key != key
    assert part.with_key({"n": 1}, {"a": "2"}).key != key
    assert one_part("x", {"a": 4})[0].with_key({"n": 1}, {"a": "1"}).key != key


def test_a_part_travels_as_text():
    (part,) = one_part("x", {"a": 3})
    assert Part.from_json(part.with_key(1, {}).to_json()) == part.with_key(1, {})
