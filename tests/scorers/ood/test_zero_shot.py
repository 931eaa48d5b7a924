"""Scorers of the logits: the columns they write, against naive formulas."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from clipsieve.errors import UsageError
from clipsieve.scorers.base import Context, Embedded, PairBatch, StoredEmbedded, unit_rows
from clipsieve.scorers.registry import make_scorer, resolve_names
from clipsieve.store.pairs import split_batch

ROWS, DIM, CLASSES = 41, 16, 12
SCALE = 100.0
NAMES = [f"class {n}" for n in range(CLASSES)]
ZERO_SHOT = [name for name in resolve_names(["ood.zero_shot"]) if name != "ood.anomaly"]
OF_LOGITS = [name for name in ZERO_SHOT if name not in ("ood.mcm", "ood.variance")]


def vectors(seed, rows, dim=DIM):
    return np.random.default_rng(seed).normal(size=(rows, dim)) + 0.8


def batch_for(scorer, images=None, texts=None, missing=(3, 40)):
    images = vectors(1, ROWS) if images is None else images
    texts = unit_rows(vectors(2, CLASSES)) if texts is None else texts
    valid = ~np.isin(np.arange(len(images)), missing)
    image = Embedded((images * valid[:, None]).astype(np.float32), valid)
    uids = pa.array([str(row) for row in range(len(images))])
    return PairBatch(uids, image, prototypes={scorer.prompt_set: texts})


def score(name, options=None, names=NAMES, **made):
    scorer: Any = make_scorer(name, {"classes": names, **(options or {})})
    batch = batch_for(scorer, **made)
    loaded = scorer.load({}, Context(DIM, len(batch), SCALE))
    return scorer.score(batch, loaded)


def naive(options=None):
    """All columns by plain formulas, from float64 cosines."""
    images, texts = vectors(1, ROWS).astype(np.float32), unit_rows(vectors(2, CLASSES))
    cosines = unit_rows(images) @ texts.T
    cosines[[3, 40]] = np.nan
    p, q = (np.exp(s * cosines) / np.exp(s * cosines).sum(1, keepdims=True) for s in (SCALE, 1))
    ordered = np.sort(cosines, axis=1)
    centred = cosines - cosines.mean(1, keepdims=True)
    return {
        "ood_msp": 1 - p.max(1),
        "ood_max_logit": -cosines.max(1),
        "ood_margin": ordered[:, -2] - ordered[:, -1],
        "ood_energy": -np.log(np.exp(SCALE * cosines).sum(1)) / SCALE,
        "ood_entropy": -(p * np.log(p)).sum(1),
        "ood_variance": -q.var(1),
        "ood_mcm": -q.max(1),
        "ood_mcm_log": -np.log(CLASSES * q.max(1)),
        "ood_gen": ((p * (1 - p)) ** 0.1).sum(1),
        "ood_pnorm": -centred.max(1) / (centred**4).sum(1) ** 0.25,
        "ood_class_probability": p.max(1),
    }


@pytest.mark.parametrize("name", ZERO_SHOT)
def test_columns_equal_naive_formulas_and_are_missing_without_image(name):
    scores = score(name)
    assert list(scores) == make_scorer(name, {}).columns.names
    expected = naive()
    for column, values in scores.items():
        if column == "ood_class":
            continue
        assert np.isnan(values).nonzero()[0].tolist() == [3, 40]
        assert np.allclose(values, expected[column], rtol=1e-6, atol=1e-12, equal_nan=True)


def test_the_class_is_that_of_the_largest_cosine():
    cosines = unit_rows(vectors(1, ROWS)) @ unit_rows(vectors(2, CLASSES)).T
    expected = [NAMES[k] for k in cosines.argmax(axis=1)]
    expected[3] = expected[40] = None
    assert score("ood.class")["ood_class"].tolist() == expected


@pytest.mark.parametrize("name", ZERO_SHOT)
def test_higher_is_farther_from_the_classes(name):
    texts = unit_rows(vectors(2, CLASSES))
    near = texts[4] + 0.01 * vectors(5, 1)[0]
    far = vectors(6, 1)[0] - 2.0
    scores = score(name, images=np.stack([near, far]), texts=texts, missing=())
    column = next(iter(scores)) if name != "ood.class" else "ood_class_probability"
    sign = -1 if name == "ood.class" else 1
    assert sign * scores[column][0] < sign * scores[column][1]


@pytest.mark.parametrize("name", ZERO_SHOT)
def test_the_order_of_classes_changes_nothing(name):
    order = np.random.default_rng(0).permutation(CLASSES)
    texts = unit_rows(vectors(2, CLASSES))
    scores = score(name)
    again = score(name, names=[NAMES[k] for k in order], texts=texts[order])
    for column, values in scores.items():
        if column == "ood_class":
            assert again[column].tolist() == values.tolist()
        else:
            assert np.allclose(again[column], values, rtol=1e-10, atol=1e-14, equal_nan=True)


@pytest.mark.parametrize("name", ["ood.max_logit", "ood.margin", "ood.mcm", "ood.pnorm"])
def test_scores_of_cosines_do_not_know_the_logit_scale(name):
    scorer: Any = make_scorer(name, {"classes": NAMES})
    batch = batch_for(scorer)
    for values, others in zip(
        scorer.score(batch, 100.0).values(), scorer.score(batch, 14.3).values(), strict=True
    ):
        assert np.array_equal(values, others, equal_nan=True)


def test_options_are_the_formulas_constants():
    images, texts = vectors(1, ROWS).astype(np.float32), unit_rows(vectors(2, CLASSES))
    cosines = np.delete(unit_rows(images) @ texts.T, [3, 40], axis=0)

    def kept(name, options):
        values = next(iter(score(name, options).values()))
        return values[~np.isnan(values)]

    cool = np.exp(cosines / 0.05)
    q = cool / cool.sum(1, keepdims=True)
    assert np.allclose(kept("ood.mcm", {"tau": 0.05}), -q.max(1), rtol=1e-6)
    assert np.allclose(kept("ood.variance", {"tau": 0.05}), -q.var(1), rtol=1e-6)
    assert np.allclose(kept("ood.entropy", {"tau": 0.05}), -(q * np.log(q)).sum(1), rtol=1e-6)
    energy = -np.log(np.exp(cosines).sum(1))
    assert np.allclose(kept("ood.energy", {"temperature": SCALE}), energy, rtol=1e-6)
    logits = SCALE * cosines
    p = np.sort(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), axis=1)[:, -3:]
    gen = ((p * (1 - p)) ** 0.5).sum(1)
    assert np.allclose(kept("ood.gen", {"gamma": 0.5, "most": 3}), gen, rtol=1e-6)
    centred = cosines - cosines.mean(1, keepdims=True)
    two = -centred.max(1) / np.sqrt((centred**2).sum(1))
    assert np.allclose(kept("ood.pnorm", {"p": 2}), two, rtol=1e-6)


def test_mcm_hardly_ties_in_float32_with_a_thousand_classes():
    rng = np.random.default_rng(0)
    texts = unit_rows(rng.normal(size=(1000, 64)) + 1.0)
    images = rng.normal(size=(20_000, 64)) + 1.0
    names = [str(k) for k in range(1000)]
    scores = score("ood.mcm", names=names, images=images, texts=texts, missing=())
    distinct = {c: len(np.unique(v.astype(np.float32))) for c, v in scores.items()}
    assert distinct["ood_mcm"] > 19_000
    assert distinct["ood_mcm_log"] > 19_900
    order, other = (np.argsort(values) for values in scores.values())
    assert np.array_equal(order, other)


@pytest.mark.parametrize("name", ZERO_SHOT)
def test_duplicate_prototypes_and_two_classes(name):
    least = 3 if name == "ood.pnorm" else 2
    texts = np.repeat(unit_rows(vectors(2, 1)), least, axis=0)
    names = NAMES[:least]
    for values in score(name, names=names, texts=texts).values():
        assert values.dtype == object or np.isnan(values).sum() == 2
    if name == "ood.margin":
        assert np.nanmax(np.abs(score(name, names=names, texts=texts)["ood_margin"])) == 0


@pytest.mark.parametrize(
    ("name", "names", "message"),
    [
        ("ood.margin", ["a"], "scorer ood.margin needs 2 classes at least, and the list has 1"),
        ("ood.pnorm", ["a", "b"], "scorer ood.pnorm needs 3 classes at least, and the list has 2"),
    ],
)
def test_too_few_classes_are_refused(name, names, message):
    with pytest.raises(UsageError, match=message):
        make_scorer(name, {"classes": names})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ood.mcm", {"tau": 0}, "option tau of scorer ood.mcm must be a number above 0, got 0"),
        ("ood.energy", {"temperature": True}, "temperature of scorer ood.energy must be a number"),
        ("ood.entropy", {"tau": "x"}, "option tau of scorer ood.entropy must be a number"),
        ("ood.gen", {"gamma": float("inf")}, "option gamma of scorer ood.gen must be a number"),
        ("ood.gen", {"most": 0}, "option most of scorer ood.gen must be an int of at least 1"),
        ("ood.pnorm", {"p": -1}, "option p of scorer ood.pnorm must be an int of at least 0"),
        ("ood.msp", {"geometry": "flat"}, "must be one of cosine, euclidean, lorentz; got 'flat'"),
        ("ood.msp", {"geometry": "lorentz", "curvature": -1}, "curvature .* above 0, got -1"),
        ("ood.mcm", {"geometry": "lorentz"}, "ood.mcm is defined on cosines, and the geometry is"),
        ("ood.msp", {"gamma": 1}, "has no option gamma; it has classes, curvature, geometry"),
    ],
)
def test_options_out_of_range_are_refused(name, options, message):
    with pytest.raises(UsageError, match=message):
        make_scorer(name, options)


@pytest.mark.parametrize("geometry", ["euclidean", "lorentz"])
@pytest.mark.parametrize("name", OF_LOGITS)
def test_logits_of_other_geometries_are_scored(name, geometry):
    options = {"geometry": geometry, "curvature": 0.5}
    scorer: Any = make_scorer(name, {"classes": NAMES, **options})
    assert not scorer.prompt_set.normalize and not scorer.prompt_set.normalize_texts
    texts = vectors(2, CLASSES) * np.linspace(0.5, 2, CLASSES)[:, None]
    for values in score(name, options, texts=texts).values():
        assert values.dtype == object or np.isnan(values).sum() == 2
    if name == "ood.max_logit" and geometry == "euclidean":
        images = vectors(1, ROWS).astype(np.float32).astype(np.float64)
        nearest = ((images[:, None] - texts) ** 2).sum(axis=2).min(axis=1) / DIM
        nearest[[3, 40]] = np.nan
        made = score(name, options, texts=texts)["ood_max_logit"]
        assert np.allclose(made, nearest, rtol=1e-9, equal_nan=True)


@pytest.mark.parametrize("name", ZERO_SHOT)
def test_batches_of_any_size_are_the_whole(name):
    scorer: Any = make_scorer(name, {"classes": NAMES})
    batch = batch_for(scorer)
    whole = scorer.score(batch, SCALE)
    parts = [scorer.score(part, SCALE) for part in split_batch(batch, 7)]
    for column, values in whole.items():
        joined = np.concatenate([part[column] for part in parts])
        if column == "ood_class":
            assert joined.tolist() == values.tolist()
        else:
            assert np.allclose(joined, values, rtol=1e-12, atol=1e-15, equal_nan=True)


def test_stored_vectors_are_normalised_from_float16_in_float64():
    stored = unit_rows(vectors(1, 5)).astype(np.float16)
    image = StoredEmbedded(stored, np.full(5, 7.0), np.ones(5, bool))
    wide = stored.astype(np.float64)
    expected = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    assert np.abs(image.unit() - expected).max() < 1e-15
    assert np.allclose(image.vectors, 7 * expected, rtol=1e-6)
    assert image.vectors.dtype == np.float32
    assert np.array_equal(image.part(slice(1, 3)).unit(), image.unit()[1:3])


def test_columns_of_other_geometries_say_so():
    cosine, lorentz = (
        make_scorer("ood.max_logit", {"classes": NAMES, "geometry": geometry}).columns.field(0)
        for geometry in ("cosine", "lorentz")
    )
    assert cosine.metadata[b"range"] == b"[-1, 1]"
    assert lorentz.metadata[b"range"] == b"[0, inf)"
    assert lorentz.metadata[b"doc"] == b"minus the largest similarity"
