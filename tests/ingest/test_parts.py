"""The parts that need no server."""

import threading
import time
from collections import Counter
from typing import Any

import numpy as np
import pytest

from clipsieve.errors import UsageError
from clipsieve.ingest.digests import as_array, first_rows, is_among, unmatched, url_digests
from clipsieve.ingest.robots import is_disallowed_by_tag, parse_robots
from clipsieve.ingest.schedule import Job, Schedule
from clipsieve.ingest.settings import IngestConfig
from clipsieve.ingest.urls import parse_url


class TestRobots:
    @pytest.mark.parametrize(
        ("text", "path", "expected"),
        [
            ("", "/", True),
            ("User-agent: *\nDisallow: /", "/a", False),
            ("User-agent: *\nDisallow:", "/a", True),
            ("User-agent: clipsieve\nDisallow:\n\nUser-agent: *\nDisallow: /", "/a", True),
            ("User-agent: other\nDisallow: /", "/a", True),
            ("User-agent: other\nUser-agent: clipsieve\nDisallow: /a", "/ab", False),
            ("User-Agent: CLIPSIEVE/2.0\nDISALLOW: /a", "/a", False),
            ("user-agent: clipsieve\nDisallow: /a\nuser-agent: *\n\nDisallow: /b", "/b", True),
            ("user-agent: clipsieve\nDisallow: /a\nuser-agent: clipsieve\nDisallow: /b", "/b", 0),
            ("User-agent: *\nDisallow: /a # all of it", "/a", False),
            ("User-agent: *\nDisallow: /a\nAllow: /a/b", "/a/b/c", True),
            ("User-agent: *\nAllow: /a\nDisallow: /a", "/a", True),  # of equals the allowing one
            ("User-agent: *\nDisallow: /*.gif$", "/x/y.gif", False),
            ("User-agent: *\nDisallow: /*.gif$", "/x/y.gif?z", True),
            ("User-agent: *\nDisallow: /*/secret/", "/x/y/secret/z", False),
            ("User-agent: *\nDisallow: /*/secret/", "/secret/z", True),
            ("User-agent: *\nDisallow: /a*b*c", "/aXXbYYc", False),
            ("User-agent: *\nDisallow: /a*b*c", "/aXXcYYb", True),
            ("User-agent: *\nDisallow: /ab$", "/ab", False),
            ("User-agent: *\nDisallow: /a*a$", "/a", True),
            ("User-agent: *\nDisallow: /%7Ejoe", "/~joe/x", False),
            ("User-agent: *\nDisallow: /a%3cd.html", "/a%3Cd.html", False),
            ("User-agent: *\nDisallow: /a%2Fb", "/a/b", True),
            ("User-agent: *\nDisallow: /b\u00fccher", "/b%C3%BCcher", False),
            ("Disallow: /", "/a", True),  # of no group
            ("User-agent: *\nCrawl-delay: 5\nDisallow: /a", "/a", False),
            ("Sitemap: https://a/b\nUser-agent: *\n\n\nDisallow: /a", "/a", False),
        ],
    )
    def test_rules(self, text: str, path: str, expected: bool) -> None:
        assert parse_robots(text).allows(path) == expected

    def test_no_pattern_takes_long(self) -> None:
        rules = parse_robots("User-agent: *\nDisallow: /" + "*a" * 2000 + "b")
        start = time.monotonic()
        assert rules.allows("/" + "a" * 8000)
        assert time.monotonic() - start < 0.5

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ([], None),
            (["noai"], "noai"),
            (["NoArchive, NOIMAGEAI"], "noimageai"),
            (["otherbot: noai"], None),
            (["clipsieve: noai"], "noai"),
            (["ClipSieve: noarchive, noindex"], "noindex"),
            (["noarchive", "noimageindex"], "noimageindex"),
            (["unavailable_after: 25 Jun 2030 15:00:00 PST"], None),
        ],
    )
    def test_tags(self, values: list[str], expected: str | None) -> None:
        directives = ("noai", "noimageai", "noindex", "noimageindex")
        assert is_disallowed_by_tag(values, directives) == expected


class TestDigests:
    def test_firsts_are_those_of_a_loop(self) -> None:
        rng = np.random.default_rng(1)
        urls = [None if n == 0 else f"u{n}" for n in rng.integers(0, 30, 200)]
        seen: dict[str, int] = {}
        expected = [
            row if url is None else seen.setdefault(url, row) for row, url in enumerate(urls)
        ]
        assert first_rows(as_array(url_digests(urls))).tolist() == expected

    def test_partners_are_those_of_a_loop(self) -> None:
        rng = np.random.default_rng(2)
        for _ in range(20):
            old = [f"u{n}" for n in rng.integers(0, 12, 30)]
            new = [f"u{n}" for n in rng.integers(0, 12, 40)]
            is_gone, is_new = unmatched(*(as_array(url_digests(urls)) for urls in (old, new)))
            for urls, others, alone in ((old, new, is_gone), (new, old, is_new)):
                left = Counter(others)
                for url, is_alone in zip(urls, alone, strict=True):
                    assert is_alone == (left[url] <= 0)
                    left[url] -= 1

    def test_membership(self) -> None:
        some, others = (as_array(url_digests(urls)) for urls in (["a", "b", None], ["b", None]))
        assert is_among(some, others).tolist() == [False, True, False]


class TestSchedule:
    def jobs(self, *urls: str) -> list[Job[None]]:
        return [Job(None, row, parse_url(url)) for row, url in enumerate(urls)]

    def test_hosts_take_turns(self) -> None:
        schedule: Schedule[None] = Schedule(2)
        schedule.add(self.jobs(*["http://a/"] * 4, *["http://b/"] * 2, "http://c/"))
        taken = [schedule.take() for _ in range(5)]
        assert [job[0].url.host for job in taken if job] == ["a", "b", "c", "a", "b"]
        assert schedule.waiting == 2
        schedule.done(taken[0][0])  # type: ignore[index]
        last = schedule.take()
        assert last is not None and last[0].url.host == "a"

    def test_who_waits_is_told_of_the_end(self) -> None:
        schedule: Schedule[None] = Schedule(1)
        got: list[object] = []
        thread = threading.Thread(target=lambda: got.append(schedule.take()))
        thread.start()
        schedule.close()
        thread.join(2)
        assert got == [None]

    def test_a_retry_comes_after_its_pause_and_before_others(self) -> None:
        schedule: Schedule[None] = Schedule(1)
        schedule.add(self.jobs("http://a/", "http://a/"))
        first = schedule.take()
        assert first is not None
        start = time.monotonic()
        schedule.retry(first[0], 0.1, is_for_host=True)
        again = schedule.take()
        assert again is not None and again[0] is first[0]
        assert time.monotonic() - start >= 0.1

    def test_other_hosts_go_on_during_a_pause(self) -> None:
        schedule: Schedule[None] = Schedule(1)
        schedule.add(self.jobs("http://a/", "http://a/", "http://b/"))
        first = schedule.take()
        assert first is not None
        schedule.retry(first[0], 5, is_for_host=True)
        other = schedule.take()
        assert other is not None and other[0].url.host == "b"

    def test_a_host_that_refuses_is_not_asked(self) -> None:
        schedule: Schedule[None] = Schedule(1)
        schedule.add(self.jobs("http://a/", "http://a/"))
        first = schedule.take()
        assert first is not None
        schedule.refuse(first[0], 60, "busy")
        schedule.done(first[0])
        second = schedule.take()
        assert second is not None and second[1] == "busy"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"urls": ()}, "urls is empty; name a list of URLs"),
        ({"shards": ""}, "shards is empty, which would mean the current folder"),
        ({"shards": "gs://b/x"}, "shards 'gs://b/x' is a URL; ingest writes to a disk"),
        ({"max_bytes": "32X"}, "max_bytes '32X' is not a size; say 500K, 32M or 1G"),
        ({"max_bytes": "0"}, "max_bytes must be an int of at least 1, got 0"),
        ({"max_bytes": "2G"}, r"max_bytes 2,147,483,648 is more than 1G; give 1G at most"),
        ({"timeout_per_url": "soon"}, "timeout_per_url 'soon' is not a time"),
        ({"timeout_per_url": 0}, "timeout_per_url must be more than 0; say 20s"),
        ({"per_host": 0}, "per_host must be an int of at least 1, got 0"),
        ({"allow_ranges": "10.0.0.1/8"}, r"allow_ranges: 10\.0\.0\.1/8 has host bits set; give"),
        ({"allow_ranges": "localhost"}, "allow_ranges: 'localhost' does not appear to be an IPv4"),
        ({"contact": "me (at home)"}, "contact 'me .at home.' is no address; give a URL or a mail"),
        ({"contact": "a\r\nX-Y: z"}, "contact .* is no address"),
    ],
)
def test_a_wrong_setting_is_refused(values: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"urls": "list", "shards": "shards", **values}
    with pytest.raises(UsageError, match=message):
        IngestConfig(**given)
