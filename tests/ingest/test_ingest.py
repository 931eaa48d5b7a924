"""A list becomes shards: every row, in order, and nothing fetched twice."""

import json
from collections import Counter
from typing import Any

import pyarrow.parquet as pq
import pytest

import clipsieve
from clipsieve.errors import UsageError
from tests.ingest.conftest import Ingesting
from tests.ingest.server import Site, answer, jpeg
from tests.test_events import SCHEMA


def test_every_row_of_the_list_is_a_row_in_its_place(site: Site, ingesting: Ingesting) -> None:
    urls = [site.url(f"/good/{n}.jpg") for n in range(25)]
    urls[3:3] = [None, "", "nonsense", site.url("/status/404"), site.url("/html")]  # type: ignore[list-item]
    ingesting.write(urls, license=[f"l{n}" for n in range(30)])
    result = ingesting(carry="license", processes=2)
    assert (result.exit_code, result.planned, result.done, result.rows) == (0, 3, 3, 30)
    assert (result.successes, result.failed_to_download, result.failed_to_resize) == (25, 4, 1)
    rows = ingesting.rows()
    assert [row["url"] for row in rows] == urls
    assert [row["caption"] for row in rows] == [f"picture {n}" for n in range(30)]
    assert [row["license"] for row in rows] == [f"l{n}" for n in range(30)]
    assert [row["key"] for row in rows] == [f"{n:06d}" for n in range(30)]
    assert rows[0]["jpg"] == jpeg(0) and rows[8]["jpg"] == jpeg(3)
    assert all((row["jpg"] is None) == (row["status"] != "success") for row in rows)
    assert ingesting.left() == ["list.json"]
    stats = json.loads((ingesting.shards / "00000_stats.json").read_text())
    assert (stats["count"], stats["successes"], stats["failed_to_download"]) == (10, 5, 4)
    assert stats["status_dict"]["HTTP 404 Not Found"] == 1
    footer = pq.read_metadata(ingesting.shards / "00000.parquet")
    assert footer.num_row_groups == 1


def test_row_groups_are_those_of_img2dataset(site: Site, ingesting: Ingesting) -> None:
    ingesting.write([site.url(f"/good/{n % 7}.jpg") for n in range(230)])
    ingesting(rows_per_shard=230)
    footer = pq.read_metadata(ingesting.shards / "00000.parquet")
    assert [footer.row_group(n).num_rows for n in range(3)] == [100, 100, 30]
    assert site.images().total() == 7


@pytest.mark.parametrize("processes", [1, 2])
def test_a_duplicate_is_fetched_once_and_has_the_same_outcome(
    site: Site, ingesting: Ingesting, processes: int
) -> None:
    numbers = [0, 1, 0, 2, 3, 4, 5, 6, 7, 8, 0, 1, 9, 9, 404, 10, 11, 12, 13, 14, 404, 9, 0, 404]
    urls = [site.url(f"/good/{n}.jpg" if n != 404 else "/status/404") for n in numbers]
    ingesting.write(urls)
    ingesting(processes=processes)
    assert set(site.images().values()) == {1}
    for number, row in zip(numbers, ingesting.rows(), strict=True):
        expected = (None, "HTTP 404 Not Found") if number == 404 else (jpeg(number), None)
        assert (row["jpg"], row["error_message"]) == expected


def test_the_same_command_again_does_nothing(site: Site, ingesting: Ingesting) -> None:
    ingesting.write([site.url(f"/good/{n}.jpg") for n in range(12)])
    ingesting()
    before, asked = ingesting.files(), site.requests.total()
    result = ingesting()
    assert (result.done, result.left, result.rows, result.exit_code) == (0, 0, 12, 0)
    assert (ingesting.files(), site.requests.total()) == (before, asked)


def test_another_list_is_refused(site: Site, ingesting: Ingesting) -> None:
    ingesting.write([site.url("/good/1.jpg")])
    ingesting()
    ingesting.write([site.url("/good/1.jpg")], caption=["another caption"])
    with pytest.raises(UsageError, match=r"is not the list that .* was made of .* --extend"):
        ingesting()
    assert "say --extend" in str(_refusal(ingesting, rows_per_shard=None))
    with pytest.raises(UsageError, match=r"rows_per_shard 11: the shards .* have 10 rows"):
        ingesting(rows_per_shard=11)


def _refusal(ingesting: Ingesting, **settings: Any) -> UsageError:
    with pytest.raises(UsageError) as refused:
        ingesting(**settings)
    return refused.value


def test_the_hash_is_of_the_rows_and_not_of_the_file(site: Site, ingesting: Ingesting) -> None:
    ingesting.write([site.url(f"/good/{n}.jpg") for n in range(3)])
    first = ingesting()
    pq.write_table(pq.read_table(ingesting.list), ingesting.list, compression="gzip")
    assert ingesting().list_hash == first.list_hash


def test_a_folder_of_something_else_is_refused(ingesting: Ingesting, site: Site) -> None:
    ingesting.write([site.url("/good/1.jpg")])
    ingesting.shards.mkdir()
    (ingesting.shards / "00000.parquet").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"has 00000.parquet, and no record of ingest"):
        ingesting()
    assert (ingesting.shards / "00000.parquet").read_bytes() == b"mine"


def test_an_empty_list_and_a_missing_one_are_refused(ingesting: Ingesting) -> None:
    with pytest.raises(UsageError, match="no input matches"):
        ingesting()
    ingesting.write([])
    with pytest.raises(UsageError, match="has no rows"):
        ingesting()
    assert not ingesting.shards.exists()


def test_a_store_is_no_place_for_shards(ingesting: Ingesting) -> None:
    with pytest.raises(UsageError, match="shards 's3://bucket/x' is a URL; ingest writes to a"):
        clipsieve.ingest(ingesting.list, "s3://bucket/x")


def test_failures_that_may_pass_are_fetched_again(site: Site, ingesting: Ingesting) -> None:
    is_up = [False]

    def page(handler: Any) -> None:
        answer(handler, jpeg(50), 200 if is_up[0] else 500)

    site.pages["/late.jpg"] = page
    urls = [site.url(f"/good/{n}.jpg") for n in range(25)]
    for row in (2, 13, 14):
        urls[row] = site.url("/late.jpg")
    urls[20] = site.url("/status/404")
    ingesting.write(urls)
    ingesting(retries=0)
    assert site.requests["/late.jpg"] == 1
    before = ingesting.files()
    is_up[0] = True
    assert ingesting().done == 0
    result = ingesting(retry_failed=True)
    assert (result.done, result.successes, result.exit_code) == (2, 24, 0)
    assert site.requests["/late.jpg"] == 2
    assert set(site.images().values()) == {1, 2}
    after = ingesting.files()
    assert after["00002.parquet"] == before["00002.parquet"]
    assert ingesting.left() == ["list.json"]
    # The shards are those of a run in which it had not failed.
    for number, stored in enumerate(ingesting.rows()):
        late = number in (2, 13, 14)
        expected = jpeg(50 if late else number) if number != 20 else None
        assert stored["jpg"] == expected
    other = Ingesting(ingesting.path)
    other.shards = ingesting.path / "undisturbed"
    other()
    assert other.files() == after
    assert ingesting(retry_failed=True).done == 0


def test_one_host_has_its_share_and_a_slow_one_starves_nobody(ingesting: Ingesting) -> None:
    from tests.ingest.server import serving

    with serving("127.0.0.1", "0.0.0.0") as site:
        site.latency = 0.05
        urls = [site.url(f"/good/{n}.jpg", host=f"127.0.0.{1 + n % 3}") for n in range(30)] + [
            site.url(f"/good/{n}.jpg", host="127.0.0.1") for n in range(100, 130)
        ]
        ingesting.write(urls)
        ingesting(rows_per_shard=60, per_host=3, threads=16)
    assert max(site.most_active.values()) == 3
    assert len(site.most_active) == 3


def test_a_host_that_asks_for_long_pauses_is_left_alone(site: Site, ingesting: Ingesting) -> None:
    for number in range(6):
        site.pages[f"/busy/{number}"] = lambda h: answer(
            h, b"", 429, headers={"Retry-After": "900"}
        )
    ingesting.write([site.url(f"/busy/{n}") for n in range(6)])
    result = ingesting(per_host=1, timeout_per_url=2)
    assert result.reasons == {"HTTP 429 Too Many Requests, which asks to wait 900 s": 6}
    assert site.images().total() == 1


def test_what_a_run_reads_of_the_folder(site: Site, ingesting: Ingesting) -> None:
    ingesting.write([site.url(f"/good/{n}.jpg") for n in range(12)] + [site.url("/status/410")])
    ingesting()
    (ingesting.shards / "00001.parquet.tmp-0123456789abcdef0123456789abcdef").write_bytes(b"half")
    (ingesting.shards / "_ingest" / "00002.rows").write_bytes(b"rows")
    out = ingesting.path / "out"
    result = clipsieve.run(ingesting.shards, out, scorers="clip")
    assert dict(result.counts.states) == {"ok": 12, "fetch_failed": 1}
    again = clipsieve.run(f"{ingesting.shards}/*.parquet", out, scorers="clip")
    assert again.skipped == 2


def test_the_command_line(site: Site, ingesting: Ingesting, capfd: Any) -> None:
    from clipsieve.cli import main

    ingesting.write([site.url(f"/good/{n}.jpg") for n in range(3)])
    words = ["ingest", str(ingesting.list), str(ingesting.shards), "--allow-ranges", "127.0.0.0/8"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--max-bytes", "1M", "--timeout-per-url", "5s", "--log-format", "json"])
    assert ended.value.code == 0
    events = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [event["event"] for event in events] == ["input", "plan", "result"]
    for event in events:
        SCHEMA.validate(event)
    assert (events[-1]["rows"], events[-1]["successes"], events[-1]["exit_code"]) == (3, 3, 0)


def test_an_error_is_an_event(ingesting: Ingesting, capfd: Any) -> None:
    from clipsieve.cli import main

    words = ["ingest", str(ingesting.list), str(ingesting.shards), "--log-format", "json"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    (event,) = map(json.loads, capfd.readouterr().err.splitlines())
    SCHEMA.validate(event)
    assert (event["event"], event["command"], event["exit_code"]) == ("error", "ingest", 2)


def test_rows_are_counted_once(site: Site, ingesting: Ingesting) -> None:
    numbers = [n % 40 for n in range(95)]
    ingesting.write([site.url(f"/good/{n}.jpg") for n in numbers])
    result = ingesting(processes=2, rows_per_shard=20)
    assert Counter(row["status"] for row in ingesting.rows()) == {"success": 95}
    assert (result.rows, result.new_rows, result.successes) == (95, 95, 95)
