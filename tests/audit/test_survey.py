"""Planted groups of every kind are found, ordinary ones are not, and shards change nothing."""

import math

import numpy as np
import pytest

from clipsieve.audit import survey as survey_module
from clipsieve.audit.data import KeptVectors
from clipsieve.audit.keys import Kind
from clipsieve.audit.survey import survey
from clipsieve.audit.witnesses import LOW_SIMILARITY, SawData, Witness
from tests.audit.rows import (
    KDIST,
    LARGE,
    SIMILARITY,
    MemoryData,
    copy_of,
    ordinary_items,
)

WITNESSES = (LOW_SIMILARITY, Witness(KDIST), Witness(LARGE))
ROWS = 2000
#: Rows of a planted group.
PLANTED = 40
#: Far below the ordinary 0.3.
WRONG = 0.1


def audit(data, witnesses=WITNESSES, saw_data=SawData.UNKNOWN):
    return survey(data, witnesses, saw_data, averaged=(SIMILARITY, KDIST))


def uids(data, findings, group):
    """Uids of the rows of a group."""
    members = findings.members
    return {
        data.uid(findings.shards[members.shards[n]], members.rows[n])
        for n in group.members.tolist()
    }


def listed(items, shards=3, **settings):
    """(kind, uids, evidence) of each group of some rows."""
    data = MemoryData.dealt(items, shards)
    findings = audit(data, **settings)
    return [
        (g.candidate.kind, frozenset(uids(data, findings, g)), g.evidence) for g in findings.groups
    ]


def planted(change, seed=0, rows=ROWS):
    """Ordinary rows, of which every fiftieth is changed; and the uids of these."""
    items = ordinary_items(rows, seed)
    step = rows // PLANTED
    rng = np.random.default_rng(seed + 1)
    for number, place in enumerate(range(0, rows, step)):
        item = items[place].but(**{SIMILARITY: WRONG + float(rng.normal()) * 0.02})
        items[place] = change(item, number, items)
    return items, {items[place].uid for place in range(0, rows, step)}


def wrong_caption(item, number, items):
    return item.but(caption=["A birthday cake", "a BIRTHDAY cake!"][number % 2])


def placeholder(item, number, items):
    return copy_of(item, items[1])


def other_digits(item, number, items):
    return item.but(caption=f"IMG_{number:04} (final).jpg")


def one_word(item, number, items):
    return item.but(caption=f"{item.caption} by acmecorp")


def one_host(item, number, items):
    return item.but(url=f"https://Bad.example:8080/{number}")


def near_pictures(item, number, items):
    turned = items[1].vector + 0.1 * item.vector
    return item.but(vector=(turned / np.linalg.norm(turned)).astype(np.float32))


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (wrong_caption, Kind.CAPTION),
        (placeholder, Kind.IMAGE_BYTES),
        (other_digits, Kind.CAPTION_TEMPLATE),
        (one_word, Kind.CAPTION_WORD),
        (one_host, Kind.HOST),
        (near_pictures, Kind.PICTURE),
    ],
)
def test_a_planted_group_is_found_as_one(change, kind):
    items, truth = planted(change)
    found = listed(items)
    assert [each[0] for each in found] == [kind]
    rows = found[0][1]
    if kind in (Kind.IMAGE_BYTES, Kind.PICTURE):  # the row whose picture it is has it too
        rows -= {items[1].uid}
    assert rows == truth
    assert found[0][2] > 5 * PLANTED


def test_near_pictures_are_corrected_for_every_row_that_might_have_had_some():
    for items in (planted(near_pictures)[0], planted(wrong_caption)[0]):
        findings = audit(MemoryData.dealt(items, 3))
        values = np.array([item.values[SIMILARITY] for item in items], np.float32)
        suspects = int((findings.ordinary[0].scores(values) >= 2).sum())
        assert suspects > PLANTED
        assert findings.tests[Kind.PICTURE].kind_rows >= suspects


def test_the_row_in_the_middle_of_near_pictures_is_no_witness_of_them():
    findings = audit(MemoryData.dealt(planted(near_pictures)[0], 3))
    (group,) = findings.groups
    scores = findings.members.scores[group.members, 0]
    assert group.observations == len(scores) - 1
    others = [(scores.sum() - own) / (len(scores) - 1) for own in scores]
    assert min(abs(group.means[0] - mean) for mean in others) < 1e-6


def test_one_picture_in_many_files_is_found_by_its_hash():
    def recompressed(item, number, items):
        return copy_of(item, items[1]).but(picture=f"file {number}".encode())

    items, truth = planted(recompressed)
    ((kind, rows, _),) = listed(items)
    assert (kind, rows - {items[1].uid}) == (Kind.IMAGE_HASH, truth)


def test_sparse_pictures_of_a_caption_are_found_by_density():
    def sparse(item, number, items):
        return item.but(caption="an odd one", **{SIMILARITY: 0.3, KDIST: 3.0, LARGE: 2.5})

    items, truth = planted(sparse)
    ((kind, rows, _),) = listed(items)
    assert (kind, rows) == (Kind.CAPTION, truth)


def rare_concepts(learnt):
    """Captions of ten rows each, a few of sparse pictures; and one that a model knows too well."""
    items = ordinary_items(ROWS, 5)
    places = iter(range(ROWS))
    for number in range(40):
        caption = f"a concept of {_WORDS[number % 26] * (2 + number // 26)}"
        for place in (next(places) for _ in range(10)):
            changes = {KDIST: 1.9, LARGE: 1.5} if number < 5 else {}
            if learnt and number == 0:
                changes |= {SIMILARITY: 0.6}
            items[place] = items[place].but(caption=caption, **changes)
    return items, {item.uid for item in items[:10]}


_WORDS = "abcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize("saw_data", list(SawData))
def test_what_a_model_has_learnt_is_rare_and_similar_unless_it_never_saw_the_data(saw_data):
    items, truth = rare_concepts(learnt=True)
    data = MemoryData.dealt(items, 2)
    findings = audit(data, saw_data=saw_data)
    joint = [uids(data, findings, g) for g in findings.groups if g.outcome.is_learnt]
    assert joint == ([] if saw_data is SawData.NO else [truth])
    assert len(findings.groups) == len(joint)
    items, _ = rare_concepts(learnt=False)
    assert listed(items, saw_data=saw_data) == []


def test_shuffled_scores_have_no_groups():
    # Every planted thing is there, but scores say nothing about it.
    found = []
    for seed in range(5):
        items, _ = planted(wrong_caption, seed)
        for start, change in enumerate((other_digits, one_word, one_host, placeholder), 5):
            for number, place in enumerate(range(start, ROWS, ROWS // PLANTED)):
                items[place] = change(items[place], number, items)
        order = np.random.default_rng(seed).permutation(ROWS)
        values = [items[n].values for n in order]
        found += listed([item.but(**own) for item, own in zip(items, values, strict=True)])
    assert len(found) <= 1


def test_copies_of_an_ordinary_picture_are_in_copies_and_in_no_group():
    def sold(item, number, items):
        return copy_of(item, items[1]).but(
            caption="Our best shoe",
            **{SIMILARITY: 0.31, KDIST: items[1].values[KDIST], LARGE: items[1].values[LARGE]},
        )

    items, truth = planted(sold)
    data = MemoryData.dealt(items, 3)
    findings = audit(data)
    assert findings.groups == ()
    copies = findings.copies[Kind.CAPTION]
    place = int(np.argmax(copies.rows))
    assert copies.rows[place] == len(truth)
    assert copies.similarity()[place] == pytest.approx(1, abs=1e-5)
    assert copies.means(SIMILARITY)[place] == pytest.approx(0.31, abs=1e-6)
    shard, row = copies.examples[place].tolist()
    assert data.uid(findings.shards[shard], row) in truth
    for kind in (Kind.IMAGE_BYTES, Kind.IMAGE_HASH):
        assert findings.copies[kind].rows.max() == len(truth) + 1


def everything():
    """Rows with planted groups of all kinds, in an order of no meaning."""
    items = ordinary_items(ROWS, 3)
    rng = np.random.default_rng(3)
    changes = (wrong_caption, placeholder, other_digits, one_word, one_host, near_pictures)
    for start, change in enumerate(changes, 2):
        for number, place in enumerate(range(start, ROWS, ROWS // 30)):
            item = items[place].but(**{SIMILARITY: WRONG + float(rng.normal()) * 0.02})
            items[place] = change(item, number, items)
    for place in range(20, ROWS, 97):  # failed pictures, empty captions
        items[place] = items[place].but(
            picture=None, caption=None, **dict.fromkeys((SIMILARITY, KDIST, LARGE), math.nan)
        )
    return [items[n] for n in rng.permutation(ROWS)]


def copies_of(data, findings):
    """Rows, values and distinct counts of all copies, whatever the numbers of shards."""
    return {
        (kind, key): tuple(columns)
        for kind, copies in findings.copies.items()
        for key, *columns in zip(
            copies.keys.tolist(),
            copies.rows.tolist(),
            *(copies.distinct(name).tolist() for name in ("captions", "pictures", "hosts")),
            np.nan_to_num(copies.similarity(), nan=-9).tolist(),
            np.nan_to_num(copies.means(SIMILARITY), nan=-9).tolist(),
            strict=True,
        )
    }


def test_findings_are_the_same_for_any_number_of_shards():
    items = everything()
    results = []
    for shards in (1, 3, 10):
        data = MemoryData.dealt(items, shards)
        findings = audit(data)
        groups = [
            (g.candidate, uids(data, findings, g), g.evidence, g.outcome, g.means, g.copies)
            for g in findings.groups
        ]
        results.append((groups, findings.tests, copies_of(data, findings), findings.rows))
    assert len(results[0][0]) >= 6
    assert {group[0].kind for group in results[0][0]} >= {
        *(Kind.CAPTION, Kind.IMAGE_BYTES, Kind.CAPTION_TEMPLATE, Kind.CAPTION_WORD, Kind.HOST)
    }
    assert results[0] == results[1] == results[2]


def test_every_row_is_in_one_group_at_most():
    items = everything()
    rows = [uid for _, own, _ in listed(items) for uid in own]
    assert len(rows) == len(set(rows)) > 150


def test_keys_that_wait_in_files_change_nothing(monkeypatch):
    items = everything()
    before = listed(items, 4)
    monkeypatch.setattr(survey_module, "SPOOL_BYTES", 100_000)  # two of four shards
    assert listed(items, 4) == before
    monkeypatch.setattr(survey_module, "SPOOL_BYTES", 0)
    assert listed(items, 4) == before


@pytest.mark.parametrize("most_bytes", [0, 1, 10**9])
def test_vectors_that_are_kept_are_those_that_are_read(most_bytes):
    data = MemoryData.dealt(ordinary_items(90), 3)
    kept = KeptVectors(data, most_bytes)
    for name in [*data.shards(), *data.shards()]:
        for rows in (None, np.array([0, 7, 29])):
            for found, expected in zip(
                kept.vectors(name, rows), data.vectors(name, rows), strict=True
            ):
                assert np.array_equal(found, expected)


def test_shards_without_rows_and_without_pictures_are_read_like_others():
    items, truth = planted(wrong_caption)
    failed = [
        item.but(uid=f"f{n}", picture=None, **dict.fromkeys((SIMILARITY, KDIST, LARGE), math.nan))
        for n, item in enumerate(ordinary_items(10, 9))
    ]
    data = MemoryData({"a": [], "b": failed, "c": items, "d": []})
    findings = audit(data)
    (group,) = findings.groups
    assert uids(data, findings, group) == truth
    assert findings.rows == ROWS + 10


@pytest.mark.parametrize("items", [[], ordinary_items(1), ordinary_items(5)], ids=len)
def test_few_rows_have_no_groups(items):
    findings = audit(MemoryData({"a": items}))
    assert (findings.groups, findings.rows) == ((), len(items))


def test_one_witness_is_enough():
    items, truth = planted(wrong_caption)
    ((_, rows, _),) = listed(items, witnesses=(LOW_SIMILARITY,))
    assert rows == truth
    assert listed(items, witnesses=(Witness(KDIST),)) == []


def test_a_stop_is_asked_for_at_every_shard():
    class Stopped(Exception):
        pass

    calls: list[None] = []

    def check():
        calls.append(None)
        if len(calls) > 7:
            raise Stopped

    data = MemoryData.dealt(ordinary_items(30), 3)
    with pytest.raises(Stopped):
        survey(data, WITNESSES, check=check)
    calls.clear()
    survey(data, WITNESSES, check=lambda: calls.append(None))
    assert len(calls) >= 9  # three passes
