"""Scorers are found by name, here and in other installed packages."""

from textwrap import dedent
from typing import Any

import numpy as np
import pytest

from clipsieve.errors import UsageError
from clipsieve.scorers.base import Scorer
from clipsieve.scorers.clipscore import ClipScore
from clipsieve.scorers.registry import (
    make_scorer,
    make_scorers,
    own_options,
    resolve_names,
    scorer_names,
)

PLUGIN = """
import numpy as np
import pyarrow as pa
from clipsieve import Scorer

class Constant(Scorer):
    name, family = "{name}", "{family}"
    columns = pa.schema([pa.field("{column}", pa.float32())])

    def score(self, batch, loaded):
        return {{"{column}": np.ones(len(batch))}}
"""


@pytest.fixture
def install_constant(install):
    """Install a package with one scorer; by default its own name and family are right."""

    def put(registered, name=None, family=None, column="constant"):
        name = registered if name is None else name
        family = name.partition(".")[0] if family is None else family
        module = f"plugin_{abs(hash((registered, name, family, column)))}"
        source = dedent(PLUGIN.format(name=name, family=family, column=column))
        install({registered: f"{module}:Constant"}, {module: source})

    return put


def test_shipped_scorers_come_in_the_order_asked_for():
    assert [s.family for s in make_scorers(["clip_ref", "clip"])] == ["clip_ref", "clip"]
    assert isinstance(make_scorers(["clip"])[0], ClipScore)
    assert {"clip", "clip_depicts", "clip_ref"} <= set(scorer_names())


@pytest.mark.parametrize("name", scorer_names())
def test_every_shipped_scorer_has_the_name_and_family_it_is_registered_by(name, tmp_path):
    np.save(tmp_path / "no.npy", np.ones((1000, 4)))
    needed: dict[str, dict[str, Any]] = {
        "ood.neglabel": {"negatives": ["a photo of nothing"], "groups": 1},
        "ood.clipn": {"no_prototypes": str(tmp_path / "no.npy")},
        "datacomp.image_cluster": {"centroids": "c.npy", "targets": "t.npy"},
        "datacomp.text_words": {"words": "words.txt"},
    }
    scorer = make_scorer(name, needed.get(name, {}))
    assert (scorer.name, scorer.family) == (name, name.split(".")[0])


def test_no_names_give_no_scorers():
    assert make_scorers([]) == ()


def test_unknown_scorer_is_refused_with_close_names_and_the_choices():
    message = r"scorer 'clop' is not known \(close names: clip\); choose from \['clip', 'clip_dep"
    with pytest.raises(UsageError, match=message):
        make_scorers(["clip", "clop"])
    with pytest.raises(UsageError, match=r"'density\.loff' .* \(close names: density\.lof"):
        resolve_names(["density.loff"])
    with pytest.raises(UsageError, match=r"'zzzzzz' is not known \(close names: none\)"):
        resolve_names(["zzzzzz"])


def test_an_unknown_scorer_is_refused_also_where_it_is_made_alone():
    with pytest.raises(UsageError, match="scorer 'clop' is not known"):
        make_scorer("clop", {})


def test_scorer_named_twice_is_refused():
    with pytest.raises(UsageError, match="scorer 'clip' is named more than once; name it once"):
        make_scorers(["clip", "clip"])


def test_scorer_of_another_package_is_found(install_constant):
    install_constant("constant")
    assert "constant" in scorer_names()
    (scorer,) = make_scorers(["constant"])
    assert scorer.columns.names == ["constant"]


def test_names_may_have_a_dot_between_family_and_method(install_constant):
    install_constant("ood.mahalanobis_2")
    (scorer,) = make_scorers(["ood.mahalanobis_2"])
    assert (scorer.name, scorer.family) == ("ood.mahalanobis_2", "ood")


def test_a_family_stands_for_its_scorers_unless_a_scorer_has_its_name(install_constant):
    install_constant("odd.b", column="b")
    install_constant("odd.a", column="a")
    install_constant("oddly", column="c")
    assert resolve_names(["clip", "odd"]) == ("clip", "odd.a", "odd.b")
    assert [scorer.name for scorer in make_scorers(["odd"])] == ["odd.a", "odd.b"]
    assert resolve_names(["density"]) == ("density",)
    assert resolve_names(["odd.b"]) == ("odd.b",)
    with pytest.raises(UsageError, match="scorer 'odd' is named more than once"):
        resolve_names(["odd.b", "odd"])


def test_the_groups_of_the_ood_family_are_those_that_need_no_file(install_constant):
    install_constant("ood.own", column="own")
    zero_shot, learned = resolve_names(["ood.zero_shot"]), resolve_names(["ood.learned"])
    assert resolve_names(["ood"]) == (*zero_shot, *learned, "ood.own")
    others = {n for n in scorer_names() if n.startswith("ood.")} - {*zero_shot, *learned}
    assert others == {"ood.neglabel", "ood.clipn", "ood.own"}
    assert not set(zero_shot) & set(learned)
    assert {type(each).statistics is not Scorer.statistics for each in make_scorers(learned)} == {
        True
    }
    assert {type(each).statistics is Scorer.statistics for each in make_scorers(zero_shot)} == {
        True
    }


def test_options_of_a_family_are_those_of_its_scorers_that_have_them():
    options: dict[str, dict[str, Any]] = {
        "ood": {"classes": ["a", "b", "c"], "gamma": 0.2},
        "ood.gen": {"gamma": 0.3},
    }
    msp, gen = make_scorers(["ood.msp", "ood.gen"], options)
    assert msp.prompts()[0].names == gen.prompts()[0].names == ("a", "b", "c")
    assert "gamma" not in msp.parameters()
    assert gen.parameters()["gamma"] == 0.3
    assert own_options("ood.gen", {"ood": {"gamma": 0.2}}) == {"gamma": 0.2}
    with pytest.raises(UsageError, match="that is asked for has an option x; they have classes"):
        make_scorers(["ood.msp"], {"ood": {"x": 1}})
    # Where a scorer has the family's name, its options are its own.
    assert own_options("density.lof", {"density": {"k": 3}}) == {}


@pytest.mark.parametrize(
    ("registered", "name", "family"),
    [("one", "one", "other"), ("one", "two", "one"), ("one.a", "one.a", "one.a")],
)
def test_scorer_with_another_name_or_family_is_refused(install_constant, registered, name, family):
    install_constant(registered, name, family)
    message = rf"scorer '{registered}' has name '{name}' and family '{family}'; its name must be"
    with pytest.raises(UsageError, match=message):
        make_scorers([registered])


@pytest.mark.parametrize(
    "name",
    [
        *("my-scorer", "scores", "samples", "Clip2", "a/../../b", "1st"),
        *("removals", "subsets", "kept", "dropped.mine", "funnel", "overlaps", "thresholds"),
        *("scores.mine", "a.b.c", "a.", ".a", "a.1", "audit_groups", "audit_members", "copies.a"),
    ],
)
def test_name_that_no_folder_and_view_can_have_is_refused(install_constant, name):
    install_constant(name)
    with pytest.raises(UsageError, match="cannot name a folder and a view"):
        make_scorers([name])


def test_a_plugin_does_not_replace_a_shipped_scorer(install_constant):
    install_constant("clip")
    assert isinstance(make_scorers(["clip"])[0], ClipScore)


def test_a_plugin_cannot_add_to_the_family_of_the_embeddings(install_constant):
    install_constant("clip.mine")
    message = "scorer 'clip.mine': family 'clip' is written with the embeddings; use another"
    with pytest.raises(UsageError, match=message):
        make_scorers(["clip.mine"])


def test_a_column_that_says_which_rows_are_removed_is_refused(install_constant):
    install_constant("one", column="Removed")
    with pytest.raises(UsageError, match="scorer one adds column 'Removed', which says of each"):
        make_scorers(["one"])


@pytest.mark.parametrize("column", ["twice", "TWICE"])
def test_two_scorers_that_add_one_column_are_refused(install_constant, column):
    install_constant("one", column="twice")
    install_constant("two", column=column)
    with pytest.raises(UsageError, match=f"scorers one and two both add column '{column}'"):
        make_scorers(["one", "two"])
    assert len(make_scorers(["one"]) + make_scorers(["two"])) == 2


def test_what_is_no_scorer_is_refused(install):
    install({"decoder": "json:JSONDecoder"})
    with pytest.raises(UsageError, match=r"scorer 'decoder' is a JSONDecoder; let its class"):
        make_scorers(["decoder"])
