"""Errors about a missing column say what makes it."""

import pyarrow as pa
import pytest

from clipsieve.errors import UsageError
from clipsieve.scorers.registry import scorer_names, scorers_of_column
from clipsieve.select.column_makers import ColumnMakers
from clipsieve.sql.predicate import read_predicate


@pytest.mark.parametrize(
    ("column", "scorers"),
    [
        ("clip_score", ["clip"]),
        ("clip_score_depicts", ["clip_depicts"]),
        ("ref_clip_score", ["clip_ref"]),
        ("density_kdist", ["density"]),
        ("density_lof", ["density.lof"]),
        ("OOD_ViM", ["ood.vim"]),
        ("ood_ctw", ["ood.clipn"]),  # cannot be made without options
        ("ood_neglabel", ["ood.neglabel"]),
        ("caption", []),
        ("", []),
    ],
)
def test_the_scorer_of_a_column(column, scorers):
    assert scorers_of_column(column) == scorers


def test_every_scorer_adds_a_column_that_leads_to_it():
    known = {"ood_class", "ood_gda", "density_isolation_forest", "density_released_kdist"}
    assert {name for column in known for name in scorers_of_column(column)} == {
        "ood.class",
        "ood.gda",
        "density.isolation_forest",
        "density.released",
    }


def test_a_plug_in_that_cannot_be_imported_adds_nothing(tmp_path, monkeypatch):
    metadata = tmp_path / "broken-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(
        "[clipsieve.scorers]\nbroken.scorer = no.such.module:Nothing\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert "broken.scorer" in scorer_names()
    assert scorers_of_column("ood_vim") == ["ood.vim"]
    assert scorers_of_column("nothing") == []


@pytest.mark.parametrize(
    ("where", "cure"),
    [
        (
            "ood_vim < 1",
            "'ood_vim', which is not there; the scorer ood.vim makes it: clipsieve score out "
            "--scorers ood.vim",
        ),
        ("OOD_VIM < 1", "clipsieve score out --scorers ood.vim"),
        ("clip_score > 1", "clipsieve run SHARDS out makes it"),
        (
            "clip_l14_similarity_score > 0.3",
            "the cosine of ViT-L-14 openai: clipsieve run SHARDS out --model ViT-L-14 "
            "--pretrained openai, or name another column",
        ),
        ("clip_b32_similarity_score > 0.3", "--set similarity=clip_similarity"),
        ("language = 'en'", "no scorer makes it: the sources bring it"),
        ("text = 'en'", "is the column caption"),
        ("captoin = 'en'", "did you mean caption"),
    ],
)
def test_a_predicate_on_a_missing_column_says_what_makes_it(where, cure):
    schema = pa.schema([("caption", pa.string())])
    with pytest.raises(UsageError) as error:
        read_predicate(where, schema, ColumnMakers("out"))
    assert cure in str(error.value)
