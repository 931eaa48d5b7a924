"""Comparison with a published column gives what a loop over dictionaries gives."""

import json
from collections import Counter
from math import isfinite
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clipsieve
from clipsieve import cli
from clipsieve.errors import UsageError
from tests.sql.folders import make_scored_folder
from tests.store.folders import make_folder, shard_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_scored_folder(tmp_path_factory.mktemp("verify") / "out")[0].root


@pytest.fixture(scope="module")
def ours(folder):
    """uid, url and clip_similarity of every row."""
    query = "SELECT uid, url, clip_similarity FROM scores ORDER BY shard, row"
    return clipsieve.connect(folder).sql(query).fetchall()


@pytest.fixture(scope="module")
def published(ours):
    """Rows as LAION publishes them: keys missing, unknown, NULL and twice; values NULL and NaN."""
    rng = np.random.default_rng(3)
    rows = [
        [uid, url, None if value is None else value + rng.normal(scale=0.01)]
        for uid, url, value in ours[10:]
    ]
    rows[5][2], rows[6][2], rows[7][2] = None, float("nan"), float("inf")
    rows += [rows[20], rows[30], rows[30], ["new", "http://new", 0.5], [None, None, 0.1]]
    order = rng.permutation(len(rows))
    return [rows[at] for at in order]


def write(path, rows, names=("uid", "URL", "similarity"), type=None):
    columns = list(zip(*rows, strict=True))
    types = (pa.string(), pa.string(), type or pa.float64())
    arrays = [pa.array(column, of) for column, of in zip(columns, types, strict=True)]
    pq.write_table(pa.table(dict(zip(names, arrays, strict=True))), path)
    return path


def naive(ours, theirs):
    """Counts, and (key, ours, theirs) of every pair with both values."""
    times = [Counter(key for key, _ in side if key is not None) for side in (ours, theirs)]
    single = [
        {key: value for key, value in side if key is not None and count[key] == 1}
        for side, count in zip((ours, theirs), times, strict=True)
    ]
    pairs = [(key, single[0][key], single[1][key]) for key in single[0].keys() & single[1].keys()]

    def side(rows, count, own, place):
        return {
            "rows": len(rows),
            "without_key": sum(key is None for key, _ in rows),
            "duplicates": sum(n for n in count.values() if n > 1),
            "unmatched": len(own) - len(pairs),
            "missing": sum(p[place] is None or not isfinite(p[place]) for p in pairs),
        }

    sides = [side((ours, theirs)[n], times[n], single[n], n + 1) for n in (0, 1)]
    both = [p for p in pairs if None not in p and isfinite(p[1]) and isfinite(p[2])]
    return sides, len(pairs), both


def check(result, ours, theirs, top=10):
    sides, joined, pairs = naive(ours, theirs)
    for side, expected in zip((result.ours, result.theirs), sides, strict=True):
        assert {name: getattr(side, name) for name in expected} == expected
        total = side.without_key + side.duplicates + side.unmatched + result.joined
        assert total == side.rows
    assert (result.joined, result.compared) == (joined, len(pairs))
    x, y = (np.array([pair[place] for pair in pairs]) for place in (1, 2))
    assert result.pearson == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert result.mean_difference == pytest.approx((x - y).mean())
    assert result.mean_absolute == pytest.approx(abs(x - y).mean())
    assert result.max_absolute == pytest.approx(abs(x - y).max())
    largest = sorted(pairs, key=lambda p: (abs(p[1] - p[2]), p[0]), reverse=True)[:top]
    assert [(pair.key, pair.ours, pair.theirs) for pair in result.largest] == largest


@pytest.mark.parametrize(("on", "place"), [(None, 0), ("uid", 0), ("url", 1)])
def test_figures_are_those_of_a_loop(folder, ours, published, tmp_path, on, place):
    path = write(tmp_path / "part.parquet", published)
    result = clipsieve.verify(folder, path, "similarity", on=on)
    assert (result.key, result.our_column) == (("uid", "url")[place], "clip_similarity")
    own = [(row[place], row[2]) for row in ours]
    check(result, own, [(row[place], row[2]) for row in published])
    assert result.ours.missing and result.theirs.missing > result.ours.missing
    assert result.theirs.duplicates == (5 if place == 0 else result.theirs.duplicates)


def test_names_in_any_case_and_files_of_a_glob(folder, ours, published, tmp_path):
    half = len(published) // 2
    names = ("Sample", "Url", "Clip_L14_Similarity_Score")
    write(tmp_path / "0.parquet", published[:half], names, pa.float32())
    write(tmp_path / "1.parquet", published[half:], names)
    as_float32 = [
        (url, value if value is None or n >= half else float(np.float32(value)))
        for n, (_, url, value) in enumerate(published)
    ]
    for against in (f"{tmp_path}/*.parquet", tmp_path):
        result = clipsieve.verify(folder, against, "clip_l14_similarity_score")
        assert (result.key, result.their_column) == ("url", names[2])
        check(result, [(row[1], row[2]) for row in ours], as_float32)


def test_paths_are_of_the_working_directory_and_no_patterns(
    folder, ours, published, tmp_path, monkeypatch
):
    write(tmp_path / "it's [1].parquet", published)
    monkeypatch.chdir(tmp_path)
    result = clipsieve.verify(folder, "it's [1].parquet", "similarity")
    assert result.theirs.rows == len(published)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_text_files(folder, ours, tmp_path, form):
    # Keys that look like dates, numbers and UUIDs stay text.
    rows = [(row[0], row[2]) for row in ours if row[2] is not None]
    odd = [("00012", 0.5), ("2020-01-01", 0.25), ("a1b2c3d4-e5f6-a7b8-a1b2-c3d4e5f6a7b8", 0.1)]
    rows += odd
    path = tmp_path / f"scores.{form}"
    if form == "csv":
        path.write_text("uid,similarity\n" + "".join(f"{k},{v!r}\n" for k, v in rows))
    else:
        path.write_text("".join(json.dumps({"uid": k, "similarity": v}) + "\n" for k, v in rows))
    result = clipsieve.verify(folder, path, "similarity")
    assert (result.joined, result.theirs.unmatched, result.max_absolute) == (len(rows) - 3, 3, 0)
    assert result.pearson == pytest.approx(1)


def test_a_uuid_is_the_text_of_its_digits(tmp_path):
    digits = [f"{n:032x}" for n in range(1, 9)]
    folder, _ = make_folder(tmp_path / "out", [shard_of("a", 8, uids=pa.array(digits))])
    raw = pa.array([bytes.fromhex(text) for text in digits], pa.binary(16))
    uuids = pa.ExtensionArray.from_storage(pa.uuid(), raw)
    for uid in (uuids, raw):
        pq.write_table(pa.table({"uid": uid, "s": np.arange(8.0)}), tmp_path / "u.parquet")
        assert clipsieve.verify(folder.root, tmp_path / "u.parquet", "s").joined == 8


def test_equal_differences_come_last_key_first_and_a_constant_has_no_correlation(
    folder, ours, tmp_path
):
    rows = [(row[0], row[1], 0.0) for row in ours if row[2] is not None]
    path = write(tmp_path / "zero.parquet", rows)
    result = clipsieve.verify(folder, path, "similarity", ours="row", top=3)
    assert result.pearson is None and result.our_column == "row"
    own = {row[0]: number for number, row in enumerate(ours)}
    assert len(own) == 125 and [p.key for p in result.largest] == ["a-59", "a-58", "a-57"]
    assert clipsieve.verify(folder, path, "similarity", top=0).largest == ()


def test_tolerance_decides_the_exit_code(folder, published, tmp_path):
    path = write(tmp_path / "part.parquet", published)
    worst = clipsieve.verify(folder, path, "similarity").max_absolute
    for tolerance, code in ((None, 0), (worst, 0), (worst * 0.999, 1), (0, 1)):
        assert clipsieve.verify(folder, path, "similarity", tolerance=tolerance).exit_code == code


def code_of(*words):
    with pytest.raises(SystemExit) as end:
        cli.main([str(word) for word in words])
    return end.value.code


def test_command(folder, published, tmp_path, capsys):
    path = write(tmp_path / "part.parquet", published)
    command = ("verify", folder, "--against", path, "--column", "similarity")
    assert code_of(*command, "--top", 2) == 0
    out = capsys.readouterr().out
    result = clipsieve.verify(folder, path, "similarity", top=2)
    assert f"{result.joined} rows joined, {result.compared} compared" in out
    assert f"{result.pearson:.6f}" in out and f"{result.max_absolute:.6f}" in out
    assert all(pair.key in out for pair in result.largest)
    assert code_of(*command, "--tolerance", 0.0001) == 1
    assert "is over the tolerance of 0.0001" in capsys.readouterr().out
    assert code_of(*command, "--on", "url", "--tolerance", 1, "--top", 0) == 0
    assert code_of(*command, "--ours", "clip_similar") == 2
    assert "did you mean clip_similarity" in capsys.readouterr().err


def test_what_is_refused(folder, ours, published, tmp_path):
    path = write(tmp_path / "part.parquet", published)
    other = write(tmp_path / "other.parquet", [("x", "y", 1.0), ("x", "z", None)])
    empty = write(tmp_path / "empty.parquet", [(row[0], row[1], None) for row in ours])
    keyless = write(tmp_path / "keyless.parquet", published, ("id", "link", "similarity"))
    (tmp_path / "bad.csv").write_text(f"uid,similarity\n{ours[0][0]},high\n")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not PAR1")
    (tmp_path / "scores.xlsx").write_bytes(b"")
    cases: list[tuple[Any, str, dict[str, Any], str]] = [
        (path, "similarty", {}, "no column 'similarty' .did you mean similarity"),
        (path, "url", {}, "column 'URL' of .* is VARCHAR; name one of numbers"),
        (path, "similarity", {"ours": "caption"}, "column 'caption' of scores is string"),
        (path, "similarity", {"ours": "density_lof"}, "score OUT --scorers density.lof"),
        (path, "similarity", {"on": "sha256"}, "on must be one of uid, url, got 'sha256'"),
        (path, "similarity", {"tolerance": -1}, "tolerance must be a finite number"),
        (path, "similarity", {"tolerance": float("nan")}, "tolerance must be a finite number"),
        (path, "similarity", {"top": -1}, "top must be an int from 0"),
        (keyless, "similarity", {}, "cannot be joined by uid or url: .* has id, link, similarity"),
        (
            other,
            "similarity",
            {},
            "no uid of .* is that of one row of ours .*join them with --on url",
        ),
        (empty, "similarity", {}, "none has both values: ours is missing in 9, theirs in 125"),
        (
            tmp_path / "bad.csv",
            "similarity",
            {},
            "'similarity' of .* is text, such as 'high', and must",
        ),
        (tmp_path / "bad.parquet", "similarity", {}, "cannot be read as parquet"),
        (tmp_path / "scores.xlsx", "similarity", {}, "ends in none of .parquet, .csv, .json"),
        (tmp_path / "none*.parquet", "similarity", {}, "matches no file"),
    ]
    for against, column, options, message in cases:
        with pytest.raises(UsageError, match=message):
            clipsieve.verify(folder, against, column, **options)


def test_a_folder_without_urls_or_without_the_wide_table(published, tmp_path):
    path = write(tmp_path / "part.parquet", published, ("id", "URL", "similarity"))
    folder, _ = make_folder(tmp_path / "out", [shard_of("a", 4)])
    with pytest.raises(UsageError, match="scores has no url"):
        clipsieve.verify(folder.root, path, "similarity")
    bare, _ = make_folder(tmp_path / "bare", [shard_of("a", 4)], wide=False)
    with pytest.raises(UsageError, match="no view `scores`"):
        clipsieve.verify(bare.root, path, "similarity")
