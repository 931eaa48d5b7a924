"""A nightly cycle: a new list adds its new rows, and what is gone is named."""

from pathlib import Path

import pytest

import clipsieve
from clipsieve.errors import UsageError
from tests.ingest.conftest import Ingesting
from tests.ingest.server import Site, jpeg


def test_a_nightly_cycle(site: Site, ingesting: Ingesting) -> None:
    """Day 1 has 400 URLs; day 2 has 100 new ones, and 20 are gone."""
    out = ingesting.path / "out"
    day1 = [site.url(f"/good/{n}.jpg") for n in range(400)]
    ingesting.write(day1)
    ingesting(rows_per_shard=100, per_host=16)
    first = clipsieve.run(ingesting.shards, out, scorers="clip")
    assert first.new_counts.rows == 400
    before, asked = ingesting.files(), site.images()

    gone = set(range(30, 50))
    day2 = [url for n, url in enumerate(day1) if n not in gone]
    day2[100:100] = [site.url(f"/good/{n}.jpg") for n in range(400, 500)]
    captions = [f"picture {url.rsplit('/', 1)[1].removesuffix('.jpg')}" for url in day2]
    ingesting.write(day2, caption=captions)
    with pytest.raises(UsageError, match="say --extend"):
        ingesting(rows_per_shard=100, per_host=16)
    result = ingesting(rows_per_shard=100, per_host=16, extend=True)
    assert (result.planned, result.done, result.new_rows, result.rows) == (5, 1, 100, 500)
    new = site.images() - asked
    assert set(new) == {f"/good/{n}.jpg" for n in range(400, 500)}
    assert set(site.images().values()) == {1}
    after = ingesting.files()
    assert {name: after[name] for name in before} == before
    assert [row["url"] for row in ingesting.rows()[400:]] == day2[100:200]

    second = clipsieve.run(ingesting.shards, out, scorers="clip")
    assert (second.skipped, second.new_counts.rows) == (4, 100)
    name = f"gone-{result.list_hash[:8]}.txt"
    path = ingesting.shards / "_ingest" / name
    assert path.read_text().splitlines() == [day1[n] for n in sorted(gone)]
    removed = clipsieve.remove(out, path, by="url")
    assert removed.rows == 20
    count = "SELECT count(*) FROM scores"
    assert clipsieve.connect(out).execute(count).fetchone() == (480,)

    # The list is known from now on, with and without --extend; and so is the first one.
    for extend in (False, True):
        again = ingesting(rows_per_shard=100, extend=extend)
        assert (again.done, again.list_hash) == (0, result.list_hash)
    assert set(site.images().values()) == {1}


def test_rows_are_compared_as_a_multiset(site: Site, ingesting: Ingesting) -> None:
    urls = [site.url(f"/good/{n}.jpg") for n in (1, 1, 2)]
    ingesting.write(urls, caption=["a", "a", "b"])
    ingesting()
    more = [site.url(f"/good/{n}.jpg") for n in (1, 2, 1, 1, 2, 3)]
    ingesting.write(more, caption=["a", "b", "a", "a", "other", "c"])
    result = ingesting(extend=True)
    assert result.new_rows == 3
    rows = ingesting.rows()[3:]
    assert [(row["url"], row["caption"]) for row in rows] == list(
        zip(more[3:], ["a", "other", "c"], strict=True)
    )
    assert [row["jpg"] for row in rows] == [jpeg(1), jpeg(2), jpeg(3)]  # two of them copied
    assert set(site.images().values()) == {1}


def test_nothing_new_and_nothing_gone(site: Site, ingesting: Ingesting) -> None:
    urls = [site.url(f"/good/{n}.jpg") for n in range(12)]
    ingesting.write(urls)
    ingesting()
    captions = [f"picture {n}" for n in reversed(range(12))]
    ingesting.write(urls[::-1], caption=captions)
    result = ingesting(extend=True)
    assert (result.done, result.new_rows, result.planned) == (0, 0, 2)
    assert ingesting.left() == ["list.json"]


def test_a_stopped_list_may_be_extended(site: Site, ingesting: Ingesting) -> None:
    urls = [site.url(f"/good/{n}.jpg") for n in range(40)]
    ingesting.write(urls)
    site.latency = 0.05
    stopped = ingesting(deadline=0.6, per_host=2)
    assert stopped.left
    site.latency = 0
    ingesting.write(
        [*urls[5:], site.url("/good/77.jpg")],
        caption=[*(f"picture {n}" for n in range(5, 40)), "new"],
    )
    result = ingesting(extend=True)
    assert (result.left, result.rows, result.exit_code) == (0, 41, 0)
    assert set(site.images().values()) <= {1, 2}
    gone = ingesting.shards / "_ingest" / f"gone-{result.list_hash[:8]}.txt"
    assert gone.read_text().splitlines() == urls[:5]


def test_other_columns_are_refused(site: Site, ingesting: Ingesting, tmp_path: Path) -> None:
    ingesting.write([site.url("/good/1.jpg")], uid=["00"])
    ingesting()
    ingesting.write([site.url("/good/2.jpg")])
    with pytest.raises(UsageError, match=r"the list has columns caption \(string\), url \(string"):
        ingesting(extend=True)
