"""Filters with lists of ids, removal lists, recipes and groups of duplicates."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clipsieve
from clipsieve.demo.shards import write_shards
from clipsieve.errors import UsageError
from tests.pipelines.jobs import exit_code, read, run_job, tables

ROWS, SHARDS = 400, 4


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    write_shards(root / "source", ROWS, SHARDS, seed=6)
    run_job(root / "source", root / "out", scorers="clip,duplicates")
    return root / "out"


@pytest.fixture
def out(scored, tmp_path):
    shutil.copytree(scored, tmp_path / "out")
    return tmp_path / "out"


def kept(out, name):
    """(shard, row) of the rows kept."""
    files = sorted((out / "subsets" / name).glob("rev=*/kept/*.parquet"))
    table = pa.concat_tables([pq.read_table(f, partitioning=None) for f in files])
    return set(zip(table["shard"].to_pylist(), table["row"].to_pylist(), strict=True))


def reasons(out, name):
    """Reason of each row dropped, by (shard, row)."""
    files = sorted((out / "subsets" / name).glob("rev=*/dropped/*.parquet"))
    rows = pa.concat_tables([pq.read_table(f, partitioning=None) for f in files]).to_pylist()
    return {(row["shard"], row["row"]): row["reason"] for row in rows}


def wide(out):
    return {(row["shard"], row["row"]): row for row in read(out, "wide").to_pylist()}


@pytest.mark.parametrize("column", ["uid", "image_sha256", "url"])
def test_lists_of_ids_are_sets(out, tmp_path, column):
    rows = wide(out)
    chosen = [key for key, row in rows.items() if row[column] is not None][::9]
    ids = {rows[key][column] for key in chosen}
    path = tmp_path / "list.txt"
    path.write_text("\n".join(sorted(ids)) + "\n")
    named = {key for key, row in rows.items() if row[column] in ids}
    by = {"image_sha256": "sha256"}.get(column, column)
    clipsieve.filter(out, "minus", "image_width >= 1", subtract=[str(path)], by=by)
    clipsieve.filter(out, "only", intersect=[str(path)], by=by)
    sized = {key for key, row in rows.items() if row["image_width"] is not None}
    assert kept(out, "only") == named
    assert kept(out, "minus") == {key for key in sized if rows[key]["image_width"] >= 1} - named
    assert "in list.txt" in set(reasons(out, "minus").values())


def test_a_pair_file_of_datacomp_is_a_set(out, tmp_path):
    uids = sorted(row["uid"] for row in wide(out).values())[:50]
    pairs = np.array([(int(u[:16], 16), int(u[16:], 16)) for u in uids], np.dtype("u8,u8"))
    np.save(tmp_path / "subset.npy", pairs)
    result = clipsieve.filter(out, "same", intersect=[str(tmp_path / "subset.npy")])
    assert result.kept == 50


def test_another_content_of_a_list_is_another_definition(out, tmp_path):
    uids = sorted(row["uid"] for row in wide(out).values())
    path = tmp_path / "list.txt"
    path.write_text("\n".join(uids[:5]))
    clipsieve.filter(out, "keep", subtract=[str(path)])
    path.write_text("\n".join(uids[:6]))
    with pytest.raises(UsageError, match="another definition"):
        clipsieve.filter(out, "keep", subtract=[str(path)])


def test_lists_that_cannot_be_read_are_refused_before_anything_is_written(out, tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("0123456789abcdef0123456789abcdef\nnot an id of any kind\n")
    before = tables(out)
    with pytest.raises(UsageError, match=r"list\.txt.*line 2"):
        clipsieve.filter(out, "keep", subtract=[str(path)])
    with pytest.raises(UsageError, match=r"list \S*nowhere\.txt is not there"):
        clipsieve.filter(out, "keep", subtract=[str(tmp_path / "nowhere.txt")])
    assert tables(out) == before


def test_removed_rows_are_in_no_subset_and_not_ranked(out, tmp_path):
    rows = wide(out)
    best = sorted(
        (key for key, row in rows.items() if row["clip_similarity"] is not None),
        key=lambda key: -rows[key]["clip_similarity"],
    )
    path = tmp_path / "takedown.txt"
    path.write_text("\n".join(rows[key]["uid"] for key in best[:7]))
    before = clipsieve.filter(out, "top", "rank_in(clip_similarity) <= 20", thresholds="stage")
    assert best[0] in kept(out, "top") and before.kept >= 20
    clipsieve.remove(out, str(path))
    with pytest.raises(UsageError, match="'top' was made before the removal lists changed"):
        clipsieve.export(out, "top", "uids", tmp_path / "uids")
    assert not (tmp_path / "uids").exists()
    results = [
        clipsieve.filter(out, f"top-{way}", "rank_in(clip_similarity) <= 20", thresholds=way)
        for way in ("driver", "stage")
    ]
    assert results[0].thresholds == results[1].thresholds
    removed = {key for key, row in rows.items() if row["uid"] in path.read_text()}
    left = [rows[key]["clip_similarity"] for key in best if key not in removed]
    line = sorted(left, reverse=True)[19]
    expected = {key for key in best if key not in removed and rows[key]["clip_similarity"] >= line}
    assert kept(out, "top-driver") == kept(out, "top-stage") == expected
    assert {reasons(out, "top-stage")[key] for key in removed} == {"removed by takedown"}
    clipsieve.filter(out, "or", "clip_score >= 1", union=["top-stage"])
    assert not kept(out, "or") & removed
    assert exit_code(["reconcile", str(out)]) == 0


def test_the_first_of_each_group_is_kept(out):
    clipsieve.filter(out, "keep", "keep_first_of(duplicate_bytes_group)")
    rows = wide(out)
    groups: dict[str, list] = {}
    for key, row in rows.items():
        if row["image_sha256"] is not None:
            groups.setdefault(row["image_sha256"], []).append(key)
    assert any(len(keys) > 1 for keys in groups.values())

    def order(key):
        score = rows[key]["clip_score"]
        return (score is None, -(score or 0.0), rows[key]["uid"], *key)

    assert kept(out, "keep") == {min(keys, key=order) for keys in groups.values()}


def test_groups_that_know_nothing_of_later_shards_are_refused(out, tmp_path):
    write_shards(tmp_path / "more", 30, 1, seed=7)
    (tmp_path / "more/00000.parquet").rename(tmp_path / "more/later.parquet")
    run_job(tmp_path / "more", out, scorers="clip,duplicates")
    with pytest.raises(UsageError, match=r"knows nothing of 1 shards.*--scorers duplicates.bytes"):
        clipsieve.filter(out, "keep", "keep_first_of(duplicate_bytes_group)")
    clipsieve.score(out, "duplicates", refit=True)
    assert clipsieve.filter(out, "keep", "keep_first_of(duplicate_bytes_group)").rows == ROWS + 30


def test_recipes_make_subsets_named_after_them(out, tmp_path):
    result = clipsieve.filter(
        out,
        recipe="datacomp.clip_l14_top30",
        parameters=["similarity=clip_similarity", "fraction=0.2"],
    )
    values = [row["clip_similarity"] for row in wide(out).values()]
    ordered = np.sort(np.array([v for v in values if v is not None], np.float32))[::-1]
    line = ordered[int(len(ordered) * 0.2)]
    assert result.name == "datacomp_clip_l14_top30"
    assert result.kept == sum(v is not None and np.float32(v) >= line for v in values)
    with pytest.raises(UsageError, match=r"clip_l14_similarity_score.*--set similarity=COLUMN"):
        clipsieve.filter(out, recipe="datacomp.clip_l14_top30", name="x")
    with pytest.raises(UsageError, match=r"'laion3b' is not known \(did you mean laion2b"):
        clipsieve.filter(out, recipe="laion3b")
    everything = clipsieve.filter(out, recipe="datacomp.no_filter")
    assert everything.kept == everything.rows == ROWS
    mine = tmp_path / "mine.toml"
    mine.write_text(
        'description = "wide pictures"\nsource = "ours"\nwhere = "image_width >= {least}"\n'
        "[parameters]\nleast = 10\n"
    )
    assert clipsieve.filter(out, recipe=str(mine)).name == "mine"


def test_recipes_are_listed(capfd):
    assert exit_code(["filter", "--recipes"]) == 0
    listed = capfd.readouterr().out
    assert "datacomp.image_based_clip_l14_top30" in listed and "laion_aesthetics" in listed
