"""Options that name files: read by the driver, and replaced by others."""

import hashlib

import numpy as np
import pytest

from clipsieve.errors import UsageError
from clipsieve.job.option_files import read_option_files, without_replaced


@pytest.mark.parametrize("scorer", ["datacomp.image_cluster", "datacomp"])
def test_files_of_datacomp_are_their_place_and_hash(tmp_path, monkeypatch, scorer):
    monkeypatch.chdir(tmp_path)
    options = {}
    for name in ("centroids", "targets", "target_clusters", "words"):
        (tmp_path / name).write_text(name)
        sha256 = hashlib.sha256(name.encode()).hexdigest()
        options[name] = {"path": str(tmp_path / name), "sha256": sha256}
    assert read_option_files({scorer: {name: name for name in options}}) == {scorer: options}
    # What is recorded is not read again, and another family's words are another option.
    (tmp_path / "words").write_text("other")
    assert read_option_files({scorer: options}) == {scorer: options}
    assert read_option_files({"own": {"words": "words"}}) == {"own": {"words": "words"}}
    assert read_option_files({"ood": {"words": "words"}}) == {"ood": {"words": ["other"]}}


def test_files_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"option words of datacomp: .*no cannot be read"):
        read_option_files({"datacomp.text_words": {"words": str(tmp_path / "no")}})
    np.save(tmp_path / "x.npy", np.ones(3))
    with pytest.raises(UsageError, match="cannot be read"):
        read_option_files({"datacomp": {"centroids": str(tmp_path)}})


@pytest.mark.parametrize(
    ("scorer", "one", "other"),
    [("datacomp", "targets", "target_clusters"), ("ood.neglabel", "words", "negatives")],
)
def test_one_of_two_options_replaces_the_other(scorer, one, other):
    recorded = {scorer: {one: 1, "kept": 2}}
    assert without_replaced(recorded, {scorer: {other: 3}}) == {scorer: {"kept": 2}}
    assert without_replaced(recorded, {scorer: {one: 3}}) == {scorer: {"kept": 2}}
    assert without_replaced(recorded, {scorer: {"more": 3}}) == recorded
    assert without_replaced(recorded, {"other": {other: 3}}) == recorded
