"""Groups of duplicates computed row by row, from tables in memory."""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

Row = dict[str, Any]


def rank(row: Row) -> tuple[Any, ...]:
    """Order of rows: the best first."""
    score, uid = row["clip_score"], row["uid"]
    missing = score is None or math.isnan(score)
    return missing, 0.0 if missing else -score, uid is None, uid, row["shard"], row["row"]


def equal_groups(rows: Sequence[Row], key: Callable[[Row], Hashable]) -> list[list[Row]]:
    """Rows with one key, those without one (None) left out; the best first."""
    groups: dict[Hashable, list[Row]] = {}
    for row in sorted(rows, key=rank):
        if key(row) is not None:
            groups.setdefault(key(row), []).append(row)
    return list(groups.values())


def star_groups(groups: Sequence[list[Row]], near: Callable[[Row, Row], bool]) -> list[list[Row]]:
    """Groups of rows joined to the first group that is near and in no star yet."""
    left = sorted(groups, key=lambda group: rank(group[0]))
    made = []
    while left:
        centre, *others = left
        joining = [group for group in others if near(centre[0], group[0])]
        left = [group for group in others if not any(group is each for each in joining)]
        made.append(sorted((row for group in [centre, *joining] for row in group), key=rank))
        assert made[-1][0] is centre[0]
    return made


def phash_groups(rows: Sequence[Row], distance: int) -> list[list[Row]]:
    """Stars of perceptual hashes."""

    def near(one: Row, other: Row) -> bool:
        return (one["image_phash"] ^ other["image_phash"]).bit_count() <= distance

    return star_groups(equal_groups(rows, lambda row: row["image_phash"]), near)


def caption_key(row: Row) -> str | None:
    """The caption, None if it is blank."""
    caption = row["caption"]
    return caption if caption is not None and caption.strip() else None


def check_columns(rows: Sequence[Row], prefix: str, groups: Sequence[list[Row]]) -> None:
    """Compare the three columns of rows with groups; rows in none have no values."""
    seen: set[int] = set()
    numbers: list[int | None] = []
    for group in groups:
        seen |= {id(row) for row in group}
        got = {row[f"{prefix}_group"] for row in group}
        assert len(got) == 1, group
        assert [row[f"{prefix}_size"] for row in group] == [len(group)] * len(group)
        assert [row[f"{prefix}_first"] for row in group] == [True] + [False] * (len(group) - 1)
        if len(group) == 1:
            assert got == {None}
        else:
            numbers += got
    assert None not in numbers and len(set(numbers)) == len(numbers)
    for row in rows:
        if id(row) not in seen:
            assert [row[f"{prefix}_{name}"] for name in ("group", "size", "first")] == [None] * 3
