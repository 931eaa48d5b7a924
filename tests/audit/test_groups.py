"""Groups equal those of a naive search; what is said about each is right."""

import dataclasses
import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from clipsieve.audit.captions import normalised
from clipsieve.audit.groups import Why, find_groups
from clipsieve.audit.selection import Threshold
from clipsieve.audit.suspects import Suspects


def unit(vectors):
    wide = np.asarray(vectors, np.float64)
    return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)


def suspects_of(rows, scored=100, below=None):
    """Suspects from (score, uid, caption, vector); `below` counts captions of other rows."""
    rows = sorted(rows, key=lambda row: (-row[0], row[1]))
    scores = np.array([row[0] for row in rows], np.float32)
    threshold = Threshold(scored, np.sort(scores))
    normal = [normalised(row[2]) for row in rows]
    counts = Counter(form for form in normal if form is not None)
    caption_rows = {
        form: count + (below or {}).get(form, 0) for form, count in counts.items() if count > 1
    }
    return Suspects(
        threshold=threshold,
        scores=scores,
        uids=[row[1] for row in rows],
        uid_type=pa.string(),
        captions=[row[2] for row in rows],
        normal=normal,
        urls=[f"http://x/{row[1]}" for row in rows],
        images=unit([row[3] for row in rows]),
        caption_rows=caption_rows,
    )


def axis(number, turn=0.0):
    vector = np.zeros(8)
    vector[number], vector[7] = math.cos(turn), math.sin(turn)
    return vector


EMPTY = {
    **dict.fromkeys(("uids", "captions", "normal", "urls"), ()),
    **{"scores": np.zeros(0, np.float32), "images": np.zeros((0, 0), np.float32)},
}
CAKE = [(9.0, f"cake{n}", "Birthday cake!", axis(0, 0.01 * n)) for n in range(6)]


def test_copies_with_one_caption_are_one_group():
    rows = [*CAKE, (8.0, "odd", "odd one", axis(1)), (7.0, "z", "another", axis(2))]
    (group,) = find_groups(suspects_of(rows))
    cosine = np.array([[math.cos(0.01 * (i - j)) for i in range(6)] for j in range(6)])
    assert (group.size, group.rows, group.share) == (6, 6, 0.06)
    assert (group.n_captions, group.n_images, group.why) == (1, 1, Why.BOTH)
    assert (group.score_mean, group.score_max) == (9.0, 9.0)
    assert group.caption == "Birthday cake!"
    assert group.similarity == pytest.approx((cosine.sum() - 6) / 30, abs=1e-6)
    assert group.uids == tuple(f"cake{n}" for n in range(5))
    assert group.urls == tuple(f"http://x/cake{n}" for n in range(5))
    # Six of 100 rows tie at the top; eight are suspicious.
    expected = -6 * math.log(0.06) - 6 * 0.08 * (1 - math.log(0.08))
    assert group.evidence == pytest.approx(expected)


def test_one_caption_over_different_pictures_is_a_group_by_caption():
    rows = [(5.0, f"u{n}", "a banana", axis(n)) for n in range(4)]
    (group,) = find_groups(suspects_of(rows))
    assert (group.why, group.n_images, group.n_captions) == (Why.CAPTION, 4, 1)
    assert group.similarity == pytest.approx(0, abs=1e-6)


def test_one_picture_with_different_captions_is_a_group_by_image():
    rows = [(5.0, f"u{n}", f"caption {n}", axis(0)) for n in range(4)]
    (group,) = find_groups(suspects_of(rows))
    assert (group.why, group.n_images, group.n_captions) == (Why.IMAGE, 1, 4)
    assert (group.rows, group.caption) == (4, "caption 0")


def test_missing_captions_join_nothing():
    rows = [(5.0, f"u{n}", caption, axis(n)) for n, caption in enumerate([None, None, "", "..."])]
    assert find_groups(suspects_of(rows)) == []


def test_a_picture_without_captions_has_none():
    (group,) = find_groups(suspects_of([(5.0, f"u{n}", None, axis(0)) for n in range(3)]))
    assert (group.caption, group.n_captions, group.why) == (None, 0, Why.IMAGE)


def test_boilerplate_does_not_tie_groups_together():
    one = [(5.0, f"a{n}", caption, axis(0)) for n, caption in enumerate(["for sale", "x", "y"])]
    two = [(4.0, f"b{n}", caption, axis(1)) for n, caption in enumerate(["For sale", "z", "w"])]
    below = {"for sale": 40}
    groups = find_groups(suspects_of([*one, *two], below=below))
    assert [group.uids for group in groups] == [("a0", "a1", "a2"), ("b0", "b1", "b2")]
    # Without its ordinary rows the caption would tie them.
    assert [group.size for group in find_groups(suspects_of([*one, *two]))] == [6]


def test_rows_below_the_line_with_a_binding_caption_count():
    rows = [(5.0, f"u{n}", "a banana", axis(n)) for n in range(4)]
    (alone,) = find_groups(suspects_of(rows))
    (group,) = find_groups(suspects_of(rows, below={"a banana": 3}))
    assert (group.size, group.rows, group.share) == (4, 7, 0.07)
    expected = 3 * 0.04 * (1 - math.log(0.04))
    assert alone.evidence - group.evidence == pytest.approx(expected)


def test_caption_shown_is_the_most_frequent_as_the_most_suspicious_row_has_it():
    rows = [
        (9.0, "a", "other", axis(0)),
        (8.0, "b", "The CAKE", axis(0)),
        (7.0, "c", "the cake.", axis(0)),
    ]
    (group,) = find_groups(suspects_of(rows))
    assert group.caption == "The CAKE"


def test_examples_have_different_uids():
    rows = [(9.0, f"u{n // 3}", "cake", axis(0)) for n in range(12)]
    (group,) = find_groups(suspects_of(rows))
    assert (group.size, group.uids) == (12, ("u0", "u1", "u2", "u3"))


def test_many_copies_come_before_a_more_extreme_pair():
    pair = [(50.0, f"p{n}", "exact duplicate", axis(3)) for n in range(2)]
    groups = find_groups(suspects_of([*CAKE, *pair], scored=1000))
    assert [group.size for group in groups] == [6, 2]


def test_equal_evidence_is_ordered_by_the_first_row():
    rows = [(5.0, f"{name}{n}", None, axis(at)) for at, name in enumerate("cab") for n in range(2)]
    assert [group.uids[0] for group in find_groups(suspects_of(rows))] == ["a0", "b0", "c0"]


def test_no_suspects_have_no_groups():
    none = dataclasses.replace(suspects_of(CAKE[:1]), **EMPTY)
    assert find_groups(none) == []


@pytest.mark.parametrize("seed", range(5))
def test_groups_equal_a_naive_search(seed):
    rng = np.random.default_rng(seed)
    words = ["cat", "dog", "Cat.", "sun", "tree", "for sale", None, "boat", "cup", "car"]
    rows = [
        (
            float(rng.integers(3, 20)),
            f"u{n:03}",
            words[rng.integers(len(words))] if rng.random() < 0.4 else f"own {n}",
            axis(rng.integers(6)) + rng.normal(size=8) * rng.choice([0.01, 0.5]),
        )
        for n in range(60)
    ]
    below = {"cat": 3, "dog": 30, "sun": 2, "for sale": 100}
    suspects = suspects_of(rows, scored=600, below=below)
    found = {group.uids[0]: group for group in find_groups(suspects, 0.9)}
    naive = naive_groups(suspects, 0.9)
    assert set(found) == set(naive)
    for uid, (members, rows_of_group, surprise) in naive.items():
        assert found[uid].size == len(members)
        assert found[uid].rows == rows_of_group
        assert found[uid].evidence == pytest.approx(surprise)
    order = [group.evidence for group in find_groups(suspects, 0.9)]
    assert order == sorted(order, reverse=True)


def naive_groups(suspects, near):
    """First uid -> members, rows and evidence of every group with any; rule by rule."""
    size, tail = len(suspects), suspects.threshold.tail
    counts = Counter(suspects.normal)
    share = max(0.25, min(1, 2 * tail))
    binding = {
        form
        for form, rows in suspects.caption_rows.items()
        if counts[form] >= 2 and counts[form] / rows >= share
    }
    images = suspects.images.astype(np.float64)
    linked = images @ images.T >= near
    for i in range(size):
        for j in range(size):
            linked[i, j] |= suspects.normal[i] == suspects.normal[j] in binding
    label = list(range(size))
    changed = True
    while changed:
        changed = False
        for i, j in np.argwhere(linked):
            if label[i] != label[j]:
                label[i] = label[j] = min(label[i], label[j])
                changed = True
    found = {}
    for root in set(label):
        members = [n for n in range(size) if label[n] == root]
        captions = {suspects.normal[n] for n in members} & binding
        rows = len(members) + sum(suspects.caption_rows[c] - counts[c] for c in captions)
        tails = [
            ((suspects.scores >= suspects.scores[n]).sum()) / suspects.threshold.scored
            for n in members
        ]
        surprise = -sum(map(math.log, tails)) - rows * tail * (1 - math.log(tail))
        if len(members) > 1 and surprise > 0:
            found[suspects.uids[members[0]]] = (members, rows, surprise)
    return found
