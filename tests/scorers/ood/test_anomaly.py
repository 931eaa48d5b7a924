"""The two-prompt score against WinCLIP's values, and at the edges."""

import numpy as np
import pytest

from clipsieve.errors import UsageError
from clipsieve.scorers.base import PromptSet, TextMap
from clipsieve.scorers.ood.anomaly import (
    ABNORMAL_STATES,
    NORMAL_STATES,
    PHOTO_TEMPLATES,
    TwoPromptAnomaly,
    state_prompts,
)
from clipsieve.scorers.registry import make_scorer
from clipsieve.scoring.prompts import prototypes
from tests.scorers.ood import oracle


def scores(images, sides, missing=(), **options):
    scorer = TwoPromptAnomaly(**options)
    batch = oracle.batch_of(images, {scorer.prompt_set: sides}, missing)
    columns = scorer.score(batch, scorer.load({}, oracle.context_of(images.shape[1])))
    assert set(columns) == set(scorer.columns.names)
    return columns["ood_anomaly"], columns["ood_anomaly_margin"]


@pytest.mark.parametrize(("tau", "values"), [(0.07, "anomaly_007"), (0.01, "anomaly_001")])
def test_scores_are_those_of_winclip(tau, values):
    data = oracle.load()
    sides = oracle.unit([data["classes"][:5].mean(axis=0), data["classes"][5:].mean(axis=0)])
    score, margin = scores(data["images"], sides, tau=tau)
    np.testing.assert_allclose(score, data[values], rtol=1e-5)
    np.testing.assert_allclose(margin, data["images"] @ (sides[1] - sides[0]), atol=1e-7)


def test_prompts_are_the_papers_states_in_twenty_two_templates():
    assert len(set(PHOTO_TEMPLATES)) == 22 and all("{}" in t for t in PHOTO_TEMPLATES)
    normal, abnormal = TwoPromptAnomaly(object=" bottle ").prompt_set.texts
    assert (len(set(normal)), len(set(abnormal))) == (7 * 22, 4 * 22)
    assert "a photo of the bottle for visual inspection." in normal
    assert "a dark photo of a bottle with flaw." in abnormal
    assert len(NORMAL_STATES) == 7 and len(ABNORMAL_STATES) == 4
    assert state_prompts(("two {}s",), "{}")[0] == "a cropped photo of a two {}s."


def test_a_side_is_the_mean_of_vectors_as_the_model_gives_them():
    prompt_set = TwoPromptAnomaly(normal=["a", "b"], abnormal=["c"]).prompt_set
    vectors = np.array([[3.0, 0.0], [0.0, 1.0], [0.0, 5.0]], np.float32)
    sides = prototypes(prompt_set, vectors)
    np.testing.assert_allclose(sides, oracle.unit([[3.0, 1.0], [0.0, 1.0]]), rtol=1e-15)


def test_it_keeps_all_digits_where_an_image_is_surely_normal():
    sides = np.array([[1.0, 0.0], [0.0, 1.0]])
    images = oracle.unit([[1.0, 0.0], [1.0, 1e-3], [0.0, 1.0], [1.0, 1.0]])
    score, margin = scores(images, sides, tau=0.01)
    np.testing.assert_allclose(score[0], np.exp(-100.0), rtol=1e-12)
    assert score[0] < score[1] and score[2] == 1.0
    np.testing.assert_allclose((score[3], margin[3]), (0.5, 0.0), atol=1e-15)


def test_equal_prototypes_and_missing_rows():
    sides = oracle.random_rows(0, 1, 8).repeat(2, axis=0)
    score, margin = scores(oracle.random_rows(1, 3, 8), sides, missing=[1])
    np.testing.assert_array_equal(score, [0.5, np.nan, 0.5])
    np.testing.assert_array_equal(margin, [0, np.nan, 0])
    assert [len(each) for each in scores(np.empty((0, 8)), sides)] == [0, 0]


def test_texts_take_the_place_of_the_prompts():
    scorer = TwoPromptAnomaly(
        normal=["a clean car", " a car "], text_map={"path": "a", "sha256": "b"}
    )
    normal, abnormal = scorer.prompt_set.texts
    assert normal == ("a clean car", "a car") and len(abnormal) == 4 * 22
    assert scorer.prompt_set.text_map == TextMap("a", "b")
    assert not scorer.prompt_set.normalize_texts and scorer.prompt_set.normalize


def test_all_that_changes_values_is_recorded():
    one, two = TwoPromptAnomaly(), TwoPromptAnomaly(tau=0.01)
    assert one.parameters() != two.parameters()
    assert one.prompts() == two.prompts() != TwoPromptAnomaly(object="car").prompts()
    assert isinstance(one.prompts()[0], PromptSet)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"object": " "}, r"object of scorer ood.anomaly, is empty"),
        ({"object": 3}, r"option object of scorer ood.anomaly is 3; give a text"),
        ({"normal": []}, r"option normal of scorer ood.anomaly is an empty list"),
        ({"abnormal": ["x", ""]}, r"entry 2 of option abnormal of scorer ood.anomaly, is empty"),
        ({"abnormal": "broken"}, r"option abnormal of scorer ood.anomaly is 'broken'; give a list"),
        ({"normal": ["x\0y"]}, r"holds a character that no text may hold"),
        ({"tau": 0}, r"option tau of scorer ood.anomaly must be a number above 0, got 0"),
        ({"geometry": "lorentz"}, r"ood.anomaly is defined on cosines, .* 'lorentz'; leave"),
        ({"classes": ["a"]}, r"scorer 'ood.anomaly' has no option classes"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        make_scorer("ood.anomaly", options)
