"""NegLabel against values of its own code, a plain reading of the formulas, and at the edges."""

import math
from typing import Any

import numpy as np
import pytest

from clipsieve.clip.class_lists import class_prompt_set
from clipsieve.errors import UsageError
from clipsieve.scorers.base import TextMap
from clipsieve.scorers.ood import neglabel
from clipsieve.scorers.ood.logits import logsumexp_rows
from clipsieve.scorers.ood.neglabel import (
    NegLabel,
    candidate_quantiles,
    group_order,
    grouped_scores,
    mine,
)
from clipsieve.scorers.registry import make_scorer
from tests.scorers.ood import oracle

CLASSES = ["cat", "dog", "bird"]
WORDS = [f"word {at}" for at in range(40)]


def grouped(images, classes, labels, groups, scale=100.0):
    positive = logsumexp_rows(images @ classes.T * scale)
    return grouped_scores(images, positive, labels, groups, scale)


def scores(scorer, images, classes, labels, missing=(), logit_scale=100.0):
    prototypes = {scorer.prompt_set: classes, scorer.label_set: labels}
    context = oracle.context_of(images.shape[1], prototypes, logit_scale)
    batch = oracle.batch_of(images, {scorer.prompt_set: classes}, missing)
    return scorer.score(batch, scorer.load({}, context))["ood_neglabel"]


def naive(image, classes, groups, scale):
    """Return the share of the labels in a softmax over classes and one group, mean over groups."""
    powers = [math.exp(scale * float(image @ row)) for row in classes]
    shares = []
    for group in groups:
        others = [math.exp(scale * float(image @ row)) for row in group]
        shares.append(sum(others) / (sum(powers) + sum(others)))
    return sum(shares) / len(shares)


# The score


@pytest.mark.parametrize(
    ("values", "groups", "permuted"),
    [("grouped", 5, False), ("permuted", 5, True), ("one_group", 1, False)],
)
def test_scores_are_those_of_the_authors(values, groups, permuted):
    data = oracle.load()
    order = group_order(len(data["labels"]), groups, None)
    if permuted:
        order = order[data["permutation"]]
    score = grouped(data["images"], data["classes"], data["labels"][order], groups)
    # Their softmax is float32 with groups, float64 without.
    tolerance = 2e-5 if groups > 1 else 1e-6
    np.testing.assert_allclose(1 - score, data[values], rtol=tolerance, atol=1e-9)


def test_the_scorer_drops_the_labels_beyond_whole_groups():
    data = oracle.load()
    names = [f"label {at}" for at in range(57)]
    scorer = NegLabel([f"class {at}" for at in range(10)], names, groups=5, seed=None)
    score = scores(scorer, data["images"], data["classes"], data["labels"])
    np.testing.assert_allclose(1 - score, data["grouped"], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("count", [1, 4])
def test_scores_are_those_of_a_plain_loop(count, groups):
    images, classes = oracle.random_rows(0, 9, 8), oracle.random_rows(1, count, 8)
    labels = oracle.random_rows(2, 12, 8)
    expected = [naive(x, classes, np.split(labels, groups), 30.0) for x in images]
    score = grouped(images, classes, labels, groups, 30.0)
    np.testing.assert_allclose(score, expected, rtol=1e-12)


def test_blocks_of_rows_do_not_change_a_score(monkeypatch):
    images, classes = oracle.random_rows(0, 9, 8), oracle.random_rows(1, 3, 8)
    labels = oracle.random_rows(2, 12, 8)
    whole = grouped(images, classes, labels, 3)
    monkeypatch.setattr(neglabel, "_BLOCK", 24)
    np.testing.assert_allclose(grouped(images, classes, labels, 3), whole, rtol=1e-12)


def test_it_keeps_all_digits_where_an_image_is_surely_a_class():
    images, classes, labels = np.array([[1.0, 0.0]]), np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    np.testing.assert_allclose(grouped(images, classes, labels, 1), [np.exp(-100.0)], rtol=1e-12)
    assert grouped(labels, classes, labels, 1) == 1.0


def test_a_label_like_the_class_is_as_likely_as_it():
    row = oracle.random_rows(0, 1, 8)
    np.testing.assert_allclose(grouped(oracle.random_rows(1, 4, 8), row, row, 1), 0.5, rtol=1e-12)


def test_order_of_classes_and_of_labels_in_a_group_does_not_matter():
    images, classes = oracle.random_rows(0, 9, 8), oracle.random_rows(1, 5, 8)
    labels = oracle.random_rows(2, 8, 8)
    within = np.r_[3:-1:-1, 7:3:-1]
    one, two = (
        grouped(images, classes, labels, 2),
        grouped(images, classes[::-1], labels[within], 2),
    )
    np.testing.assert_allclose(one, two, rtol=1e-11)


def test_rows_without_image_have_no_score():
    scorer = NegLabel(CLASSES, ["x", "y"], groups=1)
    images, classes = oracle.random_rows(0, 4, 8), oracle.random_rows(1, 3, 8)
    labels = oracle.random_rows(2, 2, 8)
    score = scores(scorer, images, classes, labels, missing=[0, 3])
    np.testing.assert_array_equal(np.isnan(score), [True, False, False, True])
    assert len(scores(scorer, images[:0], classes, labels)) == 0


def test_the_models_scale_counts():
    scorer = NegLabel(CLASSES, ["x", "y"], groups=2, seed=None)
    images, classes = oracle.random_rows(0, 4, 8), oracle.random_rows(1, 3, 8)
    labels = oracle.random_rows(2, 2, 8)
    score = scores(scorer, images, classes, labels, logit_scale=20.0)
    stored = oracle.batch_of(images, {}).image.unit()
    expected = [naive(x, classes, labels[:, None], 20.0) for x in stored]
    np.testing.assert_allclose(score, expected, rtol=1e-12)


# Groups


def test_groups_are_dealt_by_a_fixed_permutation():
    order = group_order(14, 4, 0)
    assert sorted(order) == list(range(12))  # 14 mod 4 labels are left out, the last ones
    # A change of these numbers is a change of every score.
    assert list(order) == [11, 3, 2, 1, 8, 6, 0, 7, 4, 10, 5, 9]
    assert list(group_order(14, 4, 1)) != list(order)
    assert list(group_order(14, 4, None)) == list(range(12))


# Mining


def test_mined_labels_are_those_of_the_authors():
    data = oracle.load()
    quantiles = candidate_quantiles(data["labels"], data["classes"], 0.95)
    np.testing.assert_allclose(quantiles[:5], data["quantiles"], atol=1e-6)
    # They mine nouns and adjectives apart.
    assert list(mine(quantiles[:40], 0.15)) == list(data["nouns"])
    assert list(mine(quantiles[40:], 0.15)) == list(data["adjectives"])


def test_quantiles_are_those_of_a_plain_sort(monkeypatch):
    candidates, positives = oracle.random_rows(0, 7, 8), oracle.random_rows(1, 5, 8)
    monkeypatch.setattr(neglabel, "_BLOCK", 10)
    quantiles = candidate_quantiles(candidates, positives, 0.6)
    ascending = np.sort(candidates @ positives.T, axis=1)
    np.testing.assert_allclose(quantiles, 0.6 * ascending[:, 2] + 0.4 * ascending[:, 3])
    assert len(candidate_quantiles(candidates[:0], positives, 0.5)) == 0
    one = candidate_quantiles(candidates, positives[:1], 0.95)
    np.testing.assert_allclose(one, candidates @ positives[0])


def test_of_equal_words_the_first_is_taken():
    quantiles = np.array([0.3, 0.2 + 1e-15, 0.2, 0.1, 0.2 - 1e-15])
    assert list(mine(quantiles, 1.0)) == [3, 1, 2, 4, 0]
    assert list(mine(quantiles, 0.5)) == [3, 1]  # int(2.5) of them
    assert len(mine(quantiles, 0.1)) == 0


def test_the_scorer_mines_the_words_least_like_the_classes():
    scorer = NegLabel(CLASSES, words=WORDS, groups=3, seed=None)
    classes, candidates = oracle.random_rows(0, 3, 8), oracle.random_rows(1, 40, 8)
    images = oracle.random_rows(2, 5, 8)
    order = np.argsort(np.quantile(candidates @ classes.T, 0.95, axis=1))[:6]
    stored = oracle.batch_of(images, {}).image.unit()
    expected = grouped(stored, classes, candidates[order], 3)
    np.testing.assert_allclose(scores(scorer, images, classes, candidates), expected, rtol=1e-12)
    loaded, scale = scorer.load(
        {},
        oracle.context_of(8, {scorer.prompt_set: classes, scorer.label_set: candidates}),
    )
    np.testing.assert_array_equal(loaded, candidates[order])
    assert scale == 100.0


# Texts


def test_classes_and_words_are_put_into_the_template_and_labels_are_not():
    one = NegLabel(CLASSES, negatives=["the nice owl", "owl"], groups=1)
    assert one.prompt_set.texts[0] == ("the nice cat",)
    assert one.label_set.texts == (("the nice owl",), ("owl",))
    two = NegLabel({"cat": "a kitten"}, words=["owl"], groups=1, share=1, template="no {}")
    assert two.prompt_set.texts == (("a kitten",),) and two.label_set.texts == (("no owl",),)
    assert two.prompts() == (two.prompt_set, two.label_set)
    assert NegLabel("demo", ["x"], groups=1).prompt_set == class_prompt_set("demo", "simple")


def test_words_count_once_and_names_of_classes_do_not_count():
    words = ["owl", "Cat", "Owl", " owl", "DOG", "fox"]
    scorer = NegLabel(CLASSES, words=words, groups=2, share=1)
    assert scorer.label_set.names == ("the nice owl", "the nice fox")


def test_a_label_that_is_given_twice_counts_twice():
    assert NegLabel(CLASSES, ["x", "x"], groups=2).label_set.names == ("x", "x")


def test_a_text_map_is_for_both_sides():
    scorer = NegLabel(CLASSES, ["x"], groups=1, text_map={"path": "a", "sha256": "b"})
    assert {each.text_map for each in scorer.prompts()} == {TextMap("a", "b")}


def test_all_that_changes_values_is_recorded():
    def basis(options):
        base = {"classes": CLASSES, "words": WORDS, "groups": 2}
        scorer = make_scorer("ood.neglabel", base | options)
        return [scorer.parameters(), [each.key for each in scorer.prompts()]]

    changes: list[dict[str, Any]] = [
        {},
        {"groups": 3},
        {"seed": 1},
        {"seed": None},
        {"quantile": 0.5},
        {"share": 0.5},
        {"template": "{}"},
        {"words": WORDS[::-1]},
        {"words": None, "negatives": [f"the nice {word}" for word in WORDS]},
    ]
    bases = [basis(change) for change in changes]
    assert all(one not in bases[:at] for at, one in enumerate(bases))
    assert basis({}) == bases[0]


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"needs option negatives or option words, and has neither; give one: --option"),
        ({"negatives": ["x"], "words": ["y"]}, r"option words, and has both; give one"),
        ({"negatives": []}, r"option negatives of scorer ood.neglabel is an empty list"),
        ({"negatives": "file.txt"}, r"is 'file.txt'; give a list of texts, such as"),
        ({"negatives": ["x", " "]}, r"entry 2 of option negatives of scorer .*, is empty"),
        ({"words": [3]}, r"text 3, entry 1 of option words of scorer .*, is no text"),
        ({"negatives": ["x"]}, r"has 1 negative labels, and 100 groups of them; .*groups=1"),
        ({"words": WORDS}, r"has 6 negative labels, 0.15 of 40 words, and 100 groups"),
        ({"words": ["Cat"], "groups": 1}, r"has 0 negative labels, 0.15 of 0 words, and 1 groups"),
        ({"negatives": ["x"], "groups": 0}, r"option groups .* must be an int of at least 1"),
        ({"negatives": ["x"], "seed": -1}, r"option seed .* must be an int of at least 0"),
        ({"words": ["x"], "quantile": 1.1}, r"option quantile .* a number in \[0, 1\], got 1.1"),
        ({"words": ["x"], "quantile": "1"}, r"option quantile .* a number in \[0, 1\], got '1'"),
        ({"words": ["x"], "share": 0}, r"option share .* must be a number in \(0, 1\], got 0"),
        (
            {"words": ["x"], "share": True},
            r"option share .* must be a number in \(0, 1\], got True",
        ),
        ({"words": ["x"], "template": "nice"}, r"template 'nice', .* has no {}; put {}"),
        ({"words": ["x"], "template": 3}, r"option template of scorer ood.neglabel is 3; give"),
        ({"words": ["x"], "geometry": "lorentz"}, r"is defined on cosines, and the geometry is"),
        ({"words": ["x"], "templates": "openai"}, r"'ood.neglabel' has no option templates"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        make_scorer("ood.neglabel", {"classes": CLASSES, **options})
