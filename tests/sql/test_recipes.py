"""Every recipe gives what NumPy gives, over a folder with NULLs and ties."""

import itertools
from collections import Counter

import duckdb
import numpy as np
import pytest

import clipsieve
from clipsieve.errors import UsageError
from clipsieve.sql.recipes import recipes
from tests.sql.folders import ACTIVE, BEFORE, HOSTS, add_scores, make_scored_folder


def best(values, share):
    """The score of rank ceil(share * rows) from the highest, of rows that have one."""
    ordered = -np.sort(-values[~np.isnan(values)])
    return ordered[max(1, int(np.ceil(round(share * len(ordered), 9)))) - 1]


def test_every_recipe_runs_with_its_defaults(made, answer):
    assert set(recipes()) >= {
        *("score_distribution", "keep_rate", "filter_overlap", "funnel"),
        *("by_domain", "caption_groups", "drift", "threshold_for_keep"),
    }
    for name in recipes():
        parameters = {"column": "ood_msp"} if name == "drift" else {}
        assert answer(name, **parameters) or name == "caption_groups"


@pytest.mark.parametrize("column", ["clip_score", "density_kdist"])
@pytest.mark.parametrize("keep", [0, 0.07, 0.3, "0.5", 1])
def test_threshold_for_keep(answer, columns, column, keep):
    ((row),) = answer("threshold_for_keep", column=column, keep=keep)
    values = columns[column]
    threshold = best(values, float(keep))
    kept = (values >= threshold).sum()
    scored = (~np.isnan(values)).sum()
    assert row == {
        "threshold": threshold,
        "rows": 125,
        "scored": scored,
        "kept": kept,
        "of_all": pytest.approx(kept / 125),
        "of_scored": pytest.approx(kept / scored),
        "predicate": row["predicate"],
    }
    assert kept >= float(keep) * scored and (values > threshold).sum() <= float(keep) * scored


def test_the_predicate_of_a_threshold_keeps_the_same_rows(made, answer):
    for column in ("clip_score", "density_kdist", "ood_msp"):
        for keep in (0.05, 0.33, 0.8):
            (row,) = answer("threshold_for_keep", column=column, keep=keep)
            query = f"SELECT count(*) FROM scores WHERE {row['predicate']}"
            assert clipsieve.connect(made[0].root).sql(query).fetchall() == [(row["kept"],)]


@pytest.mark.parametrize("type", ["FLOAT", "DOUBLE", "BIGINT", "UTINYINT", "UBIGINT"])
def test_a_threshold_has_its_exact_rank_in_every_type(made, type):
    connection = clipsieve.connect(made[0].root)
    connection.execute(f"CREATE TABLE t AS SELECT i::{type} AS x FROM range(1, 101) r(i)")
    shares = [percent / 100 for percent in range(101)]  # in floating point, 0.07 * 100 is over 7
    thresholds = ", ".join(f"threshold_for_keep(x, {share})" for share in shares)
    expected = tuple(101 - max(1, percent) for percent in range(101))
    assert connection.sql(f"SELECT {thresholds} FROM t").fetchall() == [expected]


@pytest.mark.parametrize(
    "value", ["0.25", "2.5e-1", "+.25", 0.25, "-1e-5", "1e300", "-1e300", 0.1 + 0.2, 10**40]
)
def test_numbers_in_every_form(answer, columns, value):
    (row,) = answer("keep_rate", column="ood_msp", threshold=value)
    assert row["kept"] == (columns["ood_msp"].astype(float) >= float(value)).sum()


def test_keep_curve(answer, columns):
    rows = answer("keep_curve", column="ood_msp", bins=17)
    values = columns["ood_msp"]
    assert len(rows) > 5
    for row in rows:
        kept = (values >= np.float32(row["threshold"])).sum()
        assert row["kept"] == kept
        assert row["keep_fraction"] == pytest.approx(kept / 125)
        assert row["keep_fraction_scored"] == pytest.approx(kept / (~np.isnan(values)).sum())


def test_score_distribution(answer, columns):
    rows = answer("score_distribution", column="clip_score", bins=8)
    values = columns["clip_score"]
    counts, edges = np.histogram(values[~np.isnan(values)], bins=8)
    assert [row["rows"] for row in rows] == [count for count in counts.tolist() if count]
    assert [row["share"] for row in rows] == pytest.approx(counts[counts > 0] / counts.sum())
    assert [row["low"] for row in rows] == pytest.approx(edges[:-1][counts > 0], abs=1e-6)


def test_score_summary(answer, columns):
    (row,) = answer("score_summary", column="density_kdist")
    values = columns["density_kdist"]
    assert (row["rows"], row["scored"], row["max"]) == (125, 122, np.nanmax(values))
    assert row["mean"] == pytest.approx(np.nanmean(values.astype(float)))


def test_bins_of_a_constant_column_and_of_null(made):
    connection = clipsieve.connect(made[0].root)
    connection.execute(
        "CREATE TABLE t AS SELECT 2.5::FLOAT AS x FROM range(3) UNION ALL (SELECT NULL)"
    )
    assert connection.sql("FROM score_histogram('t', 'x')").fetchall() == [(0, 2.5, 2.5, 3)]
    assert connection.sql("FROM keep_curve('t', 'x')").fetchall() == [(2.5, 3, 0.75, 1.0)]
    bins = "SELECT bin(NULL, 0, 1, 4), bin(1e30, 0, 1, 4), bin(-1e30, 0, 1, 4), bin(1, 0, 1, 4)"
    assert connection.sql(bins).fetchall() == [(None, 3, 0, 3)]


def passes(columns, clip_min, density_max, ood_max):
    """Which rows pass each filter; NULL passes none."""
    with np.errstate(invalid="ignore"):
        return {
            "status": columns["status"] == "ok",
            "clip": columns["clip_score"] >= np.float32(clip_min),
            "density": columns["density_kdist"] < np.float32(density_max),
            "ood": columns["ood_msp"] < np.float32(ood_max),
        }


FILTERS = [
    {},
    {"clip_keep": 0.6, "density_drop": 0.2, "ood_drop": 0},
    {"clip_min": 0.3, "density_max": "2.1", "ood_max": -0.25},
]


def thresholds(columns, parameters):
    """Thresholds that the parameters of a filter recipe mean."""
    clip = parameters.get("clip_min", best(columns["clip_score"], parameters.get("clip_keep", 0.3)))
    density = best(columns["density_kdist"], parameters.get("density_drop", 0.01))
    ood = np.inf
    if parameters.get("ood_drop", 0.05):
        ood = best(columns["ood_msp"], parameters.get("ood_drop", 0.05))
    return clip, parameters.get("density_max", density), parameters.get("ood_max", ood)


@pytest.mark.parametrize("parameters", FILTERS)
def test_funnel(answer, columns, parameters):
    rows = answer("funnel", **parameters)
    kept = np.ones(125, bool)
    missing = {
        "clip": np.isnan(columns["clip_score"]),
        "density": np.isnan(columns["density_kdist"]),
        "ood": np.isnan(columns["ood_msp"]),
    }
    assert (rows[0]["kept"], rows[0]["dropped"], rows[0]["of_previous"]) == (125, 0, None)
    tests = passes(columns, *thresholds(columns, parameters))
    for row, (name, ok) in zip(rows[1:], tests.items(), strict=True):
        before, kept = kept, kept & ok
        assert (row["kept"], row["dropped"]) == (kept.sum(), (before & ~ok).sum())
        assert row["dropped_null"] == (before & missing.get(name, np.zeros(125, bool))).sum()
        assert row["of_input"] == pytest.approx(kept.sum() / 125)
        assert row["of_previous"] == pytest.approx(kept.sum() / before.sum())
    if "clip_min" in parameters:
        filters = ["clip_score >= 0.3", "density_kdist < 2.1", "ood_msp < -0.25"]
        assert [row["filter"] for row in rows[2:]] == filters
    assert sum(row["dropped"] for row in rows) + rows[-1]["kept"] == 125


@pytest.mark.parametrize("parameters", FILTERS)
def test_filter_overlap(answer, columns, parameters):
    tests = passes(columns, *thresholds(columns, parameters))
    expected = Counter(zip(*(ok.tolist() for ok in tests.values()), strict=True))
    rows = answer("filter_overlap", **parameters)
    names = [f"{name}_ok" for name in tests]
    assert {tuple(row[name] for name in names): row["rows"] for row in rows} == expected
    assert [row["rows"] for row in rows] == sorted(expected.values(), reverse=True)
    assert sum(row["share"] for row in rows) == pytest.approx(1)


@pytest.mark.parametrize("parameters", FILTERS)
def test_filter_agreement(answer, columns, parameters):
    tests = passes(columns, *thresholds(columns, parameters))
    rows = {(row["a"], row["b"]): row for row in answer("filter_agreement", **parameters)}
    assert list(rows) == list(itertools.combinations(sorted(tests), 2))
    for (a, b), row in rows.items():
        x, y = tests[a], tests[b]
        assert row["jaccard_kept"] == pytest.approx((x & y).sum() / (x | y).sum())
        assert row["jaccard_dropped"] == pytest.approx((~x & ~y).sum() / (~x | ~y).sum())
        assert row["dropped_by_both"] == (~x & ~y).sum()


def test_by_domain_takes_hosts_of_urls(answer, columns):
    rows = answer("by_domain", threshold=0.4, share=0.2, least=6)
    hosts = np.array([None if n % 29 == 0 else HOSTS[n % 3] for n in range(125)], object)
    assert {row["domain"] for row in rows} == set(HOSTS)  # 5 rows without a URL are too few
    cut = best(columns["density_kdist"], 0.2)
    for row in rows:
        of = hosts == row["domain"]
        clip, density = columns["clip_score"][of], columns["density_kdist"][of]
        assert row["rows"] == of.sum()
        assert row["failed"] == pytest.approx((columns["status"][of] != "ok").mean())
        assert row["kept"] == pytest.approx((clip >= np.float32(0.4)).sum() / of.sum())
        assert row["median"] == pytest.approx(np.nanmedian(clip))
        assert row["suspicious"] == (density >= cut).sum()
    assert answer("by_domain", top=1, least=1) == answer("by_domain")[:1]
    by_caption = answer("by_domain", domain="shard", share=0)
    assert [row["domain"] for row in by_caption] == ["a", "b", "c"]
    assert all(row["suspicious"] == 0 for row in by_caption)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://A.Example.com/x?u=http://b", "a.example.com"),
        ("http://user:pw@h:80/x@y", "h"),
        ("http://[::1]:80/", "[::1]"),
        ("//h/x", "h"),
        ("h", "h"),
        ("h?q", "h"),
        ("", None),
        ("https:///x", None),
        (None, None),
    ],
)
def test_url_host(made, url, host):
    connection = clipsieve.connect(made[0].root)
    assert connection.execute("SELECT url_host(?::VARCHAR)", [url]).fetchall() == [(host,)]


def test_by_domain_without_urls_says_what_is_missing(tmp_path):
    folder, _ = make_scored_folder(tmp_path / "out", urls=False)
    with pytest.raises(UsageError, match=r"'domain' is not in scores.*'url' is not in scores"):
        clipsieve.sql_recipe(folder.root, "by_domain")


@pytest.mark.parametrize("parameters", [{"share": 0.5}, {"threshold": "1.5", "least": 1}])
def test_caption_groups(answer, columns, parameters):
    rows = answer("caption_groups", **{"top": 1000, **parameters})
    density = columns["density_kdist"].astype(float)
    cut = np.float32(parameters.get("threshold", best(columns["density_kdist"], 0.5)))
    groups: dict[str, list[int]] = {}
    for row in np.flatnonzero(columns["density_kdist"] >= cut).tolist():
        if columns["caption"][row] is not None:
            key = " ".join(columns["caption"][row].lower().split())
            groups.setdefault(key, []).append(row)
    groups = {key: of for key, of in groups.items() if len(of) >= parameters.get("least", 2)}
    assert {row["caption"]: row["rows"] for row in rows} == {k: len(v) for k, v in groups.items()}
    assert "buy now" in groups
    evidence = [row["rows"] * row["suspicious"] for row in rows]
    assert evidence == sorted(evidence, reverse=True)
    for row in rows:
        of = groups[row["caption"]]
        assert row["suspicious"] == pytest.approx(density[of].mean())
        examples = sorted(of, key=lambda n: (-density[n], columns["uid"][n]))[:3]
        assert row["examples"] == [columns["uid"][n] for n in examples]


def naive_drift(x, y, bins, keep):
    """PSI and KS of two samples, and of their pairs correlation, shifts and Jaccard index."""
    p, q = x[~np.isnan(x)], y[~np.isnan(y)]
    both = np.concatenate([p, q])
    edges = (min(both), max(both))
    a, b = (np.histogram(side, bins=bins, range=edges)[0] for side in (p, q))
    a, b = a[(a + b) > 0] + 0.5, b[(a + b) > 0] + 0.5
    a, b = a / a.sum(), b / b.sum()
    ks = max(abs((p <= v).mean() - (q <= v).mean()) for v in both)
    scored = ~np.isnan(x) & ~np.isnan(y)
    shift = (y - x)[scored].astype(float)
    kept = (x >= best(x, keep)), (y >= best(y, keep))
    return {
        "psi": ((a - b) * np.log(a / b)).sum(),
        "ks": ks,
        "scored_in_both": scored.sum(),
        "correlation": np.corrcoef(x[scored], y[scored])[0, 1],
        "mean_shift": shift.mean(),
        "max_shift": abs(shift).max(),
        "kept_jaccard": (kept[0] & kept[1]).sum() / (kept[0] | kept[1]).sum(),
    }


@pytest.mark.parametrize("parameters", [{}, {"bins": 7, "keep": 0.6, "before": BEFORE}])
def test_drift(made, answer, columns, parameters):
    glob = f"{made[0].root}/scores/ood/rev={BEFORE}/*.parquet"
    rows = duckdb.connect().execute("SELECT ood_msp FROM read_parquet(?)", [glob]).fetchall()
    before = np.array([value for (value,) in rows], np.float32)
    (row,) = answer("drift", column="ood_msp", **parameters)
    expected = naive_drift(
        before, columns["ood_msp"], parameters.get("bins", 20), parameters.get("keep", 0.3)
    )
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    counts = ("rows_before", "rows_after", "scored_before", "scored_after", "same_rows")
    assert [row[name] for name in counts] == [125, 125, 123, 122, 125]


def test_no_drift_between_a_revision_and_itself(answer):
    (row,) = answer("drift", column="ood_msp", before="active")
    assert (row["psi"], row["ks"], row["max_shift"], row["kept_jaccard"]) == (0, 0, 0, 1)
    assert row["correlation"] == pytest.approx(1)


def test_drift_needs_two_revisions_and_says_where_there_are(answer):
    with pytest.raises(UsageError, match=r"'clip'.* no revision beside the active.*here: ood"):
        answer("drift")
    with pytest.raises(UsageError, match=rf"no revision '1234'; .*{ACTIVE} \(active\), {BEFORE};"):
        answer("drift", column="ood_msp", before="1234")
    with pytest.raises(UsageError, match="'row' is no score"):
        answer("drift", column="row")


def test_drift_between_more_than_two_revisions_or_of_a_new_column(tmp_path):
    folder, manifest = make_scored_folder(tmp_path / "out")
    add_scores(folder, manifest, "ood", {"ood_energy": np.zeros(125)}, "0d" * 4)
    with pytest.raises(UsageError, match=r"several revisions beside the active; .*name one"):
        clipsieve.sql_recipe(folder.root, "drift", column="ood_msp")
    with pytest.raises(UsageError, match=r"0d0d0d0d .* no column 'ood_msp'; it has ood_energy"):
        clipsieve.sql_recipe(folder.root, "drift", column="ood_msp", before="0d" * 4)
