"""Scorers are found by name, here and in other installed packages."""

import sys
from textwrap import dedent

import pytest

from clipsieve.errors import UsageError
from clipsieve.scorers.clipscore import ClipScore
from clipsieve.scorers.registry import scorer_names, scorers_named

PLUGIN = """
import pyarrow as pa
from clipsieve.scorers.base import Scorer

class Constant(Scorer):
    family = "{family}"
    needs = frozenset()
    prompt = ""
    columns = pa.schema([pa.field("constant", pa.float32())])
    version = 1

    def score(self, batch, fitted):
        return {{"constant": [1.0] * len(batch)}}
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a package with one scorer on the path, as pip would."""

    def put(name, family):
        module = f"plugin_{abs(hash((name, family)))}"
        (tmp_path / f"{module}.py").write_text(dedent(PLUGIN.format(family=family)))
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        entry = f"[clipsieve.scorers]\n{name} = {module}:Constant\n"
        (info / "entry_points.txt").write_text(entry)
        monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])

    return put


def test_shipped_scorers_come_in_the_order_asked_for():
    assert [s.family for s in scorers_named(["clip_ref", "clip"])] == ["clip_ref", "clip"]
    assert isinstance(scorers_named(["clip"])[0], ClipScore)
    assert {"clip", "clip_depicts", "clip_ref"} <= set(scorer_names())


def test_no_names_give_no_scorers():
    assert scorers_named([]) == ()


def test_unknown_scorer_is_refused_with_the_choices():
    with pytest.raises(UsageError, match=r"scorer 'clop' is not known; choose from \['clip'"):
        scorers_named(["clip", "clop"])


def test_scorer_named_twice_is_refused():
    with pytest.raises(UsageError, match="scorer 'clip' is named more than once; name it once"):
        scorers_named(["clip", "clip"])


def test_scorer_of_another_package_is_found(install):
    install("constant", "constant")
    assert "constant" in scorer_names()
    (scorer,) = scorers_named(["constant"])
    assert scorer.columns.names == ["constant"]


def test_scorer_that_writes_another_family_is_refused(install):
    install("one", "other")
    with pytest.raises(UsageError, match="scorer 'one' writes family 'other'; register it by that"):
        scorers_named(["one"])


@pytest.mark.parametrize("name", ["my-scorer", "scores", "samples", "Clip2", "a/../../b", "1st"])
def test_name_that_no_folder_and_view_can_have_is_refused(install, name):
    install(name, name)
    with pytest.raises(UsageError, match="cannot name a folder and a view"):
        scorers_named([name])


def test_a_plugin_does_not_replace_a_shipped_scorer(install):
    install("clip", "clip")
    assert isinstance(scorers_named(["clip"])[0], ClipScore)
