"""One URL against a real server: every answer becomes an image or a reason."""

import time
from email.utils import formatdate
from typing import Any

import pytest

from clipsieve.ingest.addresses import system_resolver
from clipsieve.ingest.fetch import Fetcher, Retry
from clipsieve.ingest.outcomes import Outcome, is_worth_a_retry
from clipsieve.ingest.settings import IngestConfig
from clipsieve.ingest.urls import parse_url
from tests.ingest.server import Site, answer, jpeg, serving


def fetcher(**settings: Any) -> Fetcher:
    resolver = settings.pop("resolver", system_resolver)
    tls = settings.pop("tls", None)
    given = {"allow_ranges": "127.0.0.0/8", "timeout_per_url": 2, **settings}
    return Fetcher(IngestConfig(("list",), "shards", **given), "1.2.3", resolver, tls)


def fetch(url: str, **settings: Any) -> Outcome:
    """The outcome after all retries."""
    one = fetcher(**settings)
    deadline = time.monotonic() + one.seconds
    for attempts in range(10):
        result = one.attempt(parse_url(url), attempts, deadline)
        if isinstance(result, Outcome):
            return result
        time.sleep(min(result.seconds, max(0, deadline - time.monotonic())))
        if time.monotonic() >= deadline:
            return Outcome("failed_to_download", result.error.reason)
    raise AssertionError("it never gives up")


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("/good/7.jpg", 7),
        ("/html-type", 1),
        ("/gzip", 3),
        ("/chunked", 5),
        ("/redirect/9", 1),
        ("/noai" + "googlebot:_noindex", 2),
        ("/noai" + "nofollow,_noarchive", 2),
    ],
)
def test_bytes_are_those_of_the_server(site: Site, path: str, number: int) -> None:
    outcome = fetch(site.url(path))
    assert (outcome.status, outcome.error) == ("success", None)
    assert outcome.data == jpeg(number)
    assert (outcome.width, outcome.height) == (48, 48)


@pytest.mark.parametrize(
    ("path", "status", "error", "requests"),
    [
        ("/status/404", "failed_to_download", "HTTP 404 Not Found", 1),
        ("/status/410", "failed_to_download", "HTTP 410 Gone", 1),
        ("/status/403", "failed_to_download", "HTTP 403 Forbidden", 1),
        ("/status/500", "failed_to_download", "HTTP 500 Internal Server Error", 2),
        ("/status/204", "failed_to_download", "HTTP 204 No Content", 1),
        (
            "/html",
            "failed_to_resize",
            "not an image: looks like an HTML page, starts with '<html>",
            1,
        ),
        ("/svg", "failed_to_resize", "picture format SVG is not supported", 1),
        ("/empty", "failed_to_resize", "zero bytes", 1),
        ("/loop", "failed_to_download", "more than 10 redirects", 11),
        ("/noai", "failed_to_download", "X-Robots-Tag: noai", 1),
        ("/noai" + "clipsieve:_noindex", "failed_to_download", "X-Robots-Tag: noindex", 1),
        ("/bomb", "failed_to_download", "more than 1 MB decompressed", 1),
        ("/brotli", "failed_to_download", "Content-Encoding br is not known", 1),
        ("/truncated", "failed_to_download", "the body ended after 200 of ", 2),
        ("/endless", "failed_to_download", "more than 1 MB", 1),
        ("/400mb", "failed_to_download", "more than 1 MB", 1),
        ("/garbage", "failed_to_download", "the answer is not HTTP: SSH-2.0", 2),
        ("/reset", "failed_to_download", "connection lost: ", 2),
        ("/to?ftp://example.com/x", "failed_to_download", "the URL is of scheme 'ftp'; only", 1),
        ("/to?http://10.0.0.1/x", "failed_to_download", "address 10.0.0.1 is not public (redir", 1),
        ("/to?http://[fd00::1]/x", "failed_to_download", "address fd00::1 is not public (redi", 1),
    ],
)
def test_a_failure_has_its_reason(
    site: Site, path: str, status: str, error: str, requests: int
) -> None:
    outcome = fetch(site.url(path), max_bytes="1M", retries=1)
    assert outcome.status == status
    assert outcome.error is not None and outcome.error.startswith(error)
    assert outcome.data is None and outcome.sha256 is None
    assert site.images().total() == requests


@pytest.mark.parametrize("path", ["/drip", "/drip-head", "/silent"])
def test_the_deadline_covers_everything(site: Site, path: str) -> None:
    start = time.monotonic()
    outcome = fetch(site.url(path), timeout_per_url=0.4)
    assert outcome.error == "no complete answer within 0.4 s"
    assert time.monotonic() - start < 1


def test_no_listener_is_a_failure_that_may_pass(site: Site) -> None:
    with serving() as other:
        url = other.url("/good/1.jpg")
    outcome = fetch(url, retries=0, robots=False)
    assert outcome.error == "cannot connect to 127.0.0.1: Connection refused"
    assert outcome.may_pass


def test_retry_after_is_waited_for(site: Site) -> None:
    answers = iter([(429, "1"), (503, formatdate(time.time() + 1, usegmt=True)), (200, "")])

    def page(handler: Any) -> None:
        status, wait = next(answers)
        answer(handler, jpeg(1), status, headers={"Retry-After": wait} if wait else {})

    site.pages["/busy"] = page
    assert fetch(site.url("/busy"), timeout_per_url=5).status == "success"
    times = site.times["/busy"]
    assert len(times) == 3
    assert times[1] - times[0] > 0.9


def test_retry_after_beyond_the_deadline_fails_at_once(site: Site) -> None:
    site.pages["/busy"] = lambda h: answer(h, b"", 429, headers={"Retry-After": "3600"})
    one = fetcher()
    result = one.attempt(parse_url(site.url("/busy")), 0, time.monotonic() + 2)
    assert isinstance(result, Retry) and result.is_for_host
    assert result.error.reason == "HTTP 429 Too Many Requests, which asks to wait 3600 s"


def test_the_request_is_honest_and_carries_nothing_of_the_environment(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    url = site.url("/good/1.jpg").replace("http://", "http://me:secret@")
    assert fetch(url, contact="mailto:me@example.org").status == "success"
    assert site.user_agents == {"clipsieve/1.2.3 (+mailto:me@example.org)"}
    assert {header for headers in site.headers for header in headers} == {
        *("Host", "User-Agent", "Accept", "Accept-Encoding", "Connection")
    }


class TestRobots:
    def test_it_is_read_once_and_obeyed(self, site: Site) -> None:
        site.robots = (
            b"User-agent: *\nDisallow: /good/1\n\nUser-agent: ClipSieve\nDisallow: /good/2"
        )
        one = fetcher()
        outcomes = [
            one.attempt(parse_url(site.url(f"/good/{n}.jpg")), 0, time.monotonic() + 2)
            for n in (1, 2, 3)
        ]
        assert [getattr(outcome, "error", outcome) for outcome in outcomes] == [
            None,
            f"disallowed by robots.txt of {site.url('')}",
            None,
        ]
        assert site.requests["/robots.txt"] == 1

    def test_it_may_be_passed_over(self, site: Site) -> None:
        site.robots = b"User-agent: *\nDisallow: /"
        assert fetch(site.url("/good/1.jpg"), robots=False).status == "success"
        assert site.requests["/robots.txt"] == 0

    @pytest.mark.parametrize("status", [401, 403, 404, 410])
    def test_a_client_error_allows_everything(self, site: Site, status: int) -> None:
        site.robots = status
        assert fetch(site.url("/good/1.jpg")).status == "success"

    @pytest.mark.parametrize("status", [500, 503])
    def test_an_error_of_the_server_allows_nothing(self, site: Site, status: int) -> None:
        site.robots = status
        outcome = fetch(site.url("/good/1.jpg"), retries=0)
        assert outcome.error is not None
        assert outcome.error.startswith(
            f"robots.txt of {site.url('')} cannot be read: HTTP {status}"
        )
        assert outcome.may_pass
        assert not site.images()

    def test_it_is_asked_for_where_a_redirect_leads(self, site: Site) -> None:
        with serving("127.0.0.2") as other:
            other.robots = b"User-agent: *\nDisallow: /"
            outcome = fetch(site.url(f"/to?{other.url('/good/1.jpg')}"))
        assert outcome.error is not None
        assert outcome.error.startswith(f"disallowed by robots.txt of {other.url('')}")
        assert not other.images()

    def test_only_its_beginning_is_read(self, site: Site) -> None:
        site.robots = b"User-agent: *\nDisallow: /good/1\n" + b"# " + b"x" * (1 << 20)
        assert fetch(site.url("/good/2.jpg")).status == "success"
        assert (fetch(site.url("/good/1.jpg")).error or "").startswith("disallowed by")


def test_addresses_are_those_that_were_checked(site: Site) -> None:
    """An answer that changes between check and connect leads nowhere else."""
    with serving("127.0.0.2") as allowed, serving("127.0.0.1") as private:
        asked = []

        def resolver(host: str, port: int) -> list[str]:
            asked.append(host)
            return ["127.0.0.2"] if len(asked) == 1 else ["127.0.0.1"]

        settings = {"allow_ranges": "127.0.0.2/32", "resolver": resolver, "robots": False}
        one = fetcher(**settings)
        url = allowed.url("/good/1.jpg", host="rebind.example")
        outcome = one.attempt(parse_url(url), 0, time.monotonic() + 2)
        assert isinstance(outcome, Outcome) and outcome.status == "success"
        assert asked == ["rebind.example"]
        # The second connection's answer is looked at again: here it is of another name.
        url = private.url("/good/1.jpg", host="other.example")
        outcome = one.attempt(parse_url(url), 0, time.monotonic() + 2)
        assert isinstance(outcome, Outcome)
        assert outcome.error == "address 127.0.0.1 of other.example is not public"
        assert not private.requests


def test_addresses_are_tried_one_after_the_other(site: Site) -> None:
    outcome = fetch(
        site.url("/good/1.jpg", host="several.example"),
        resolver=lambda host, port: ["127.0.0.9", "127.0.0.1"],
    )
    assert outcome.status == "success"


def test_one_private_answer_among_public_ones_is_refused() -> None:
    outcome = fetch(
        "http://mixed.example/x.jpg",
        resolver=lambda host, port: ["93.184.216.34", "192.168.0.1"],
        robots=False,
    )
    assert outcome.error == "address 192.168.0.1 of mixed.example is not public"


def test_a_resolver_that_hangs_is_under_the_deadline() -> None:
    def resolver(host: str, port: int) -> list[str]:
        time.sleep(1)
        return []

    start = time.monotonic()
    outcome = fetch("http://slow.example/x.jpg", resolver=resolver, timeout_per_url=0.3)
    assert time.monotonic() - start < 0.8
    assert outcome.error is not None and "no address of slow.example in time" in outcome.error


def test_an_unknown_name_is_not_tried_again() -> None:
    outcome = fetch("http://no-such-name.invalid/x.jpg", robots=False)
    assert outcome.error is not None
    assert outcome.error.startswith("cannot resolve no-such-name.invalid: ")


def test_every_address_is_allowed_if_that_is_asked_for(site: Site) -> None:
    outcome = fetch(site.url("/good/1.jpg"), allow_private=True, allow_ranges=())
    assert outcome.status == "success"
    assert (fetch(site.url("/good/1.jpg"), allow_ranges=()).error or "") == (
        "address 127.0.0.1 is not public"
    )


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("HTTP 500 Internal Server Error", True),
        ("HTTP 429 Too Many Requests", True),
        ("HTTP 403 Forbidden", True),
        ("no complete answer within 20 s", True),
        ("more than 32 MB", True),
        ("HTTP 404 Not Found", False),
        ("HTTP 410 Gone", False),
        ("address 10.0.0.1 is not public", False),
        ("the URL is NULL", False),
        ("X-Robots-Tag: noai", False),
        ("disallowed by robots.txt of http://a", False),
        ("robots.txt of http://a cannot be read: HTTP 500", True),
    ],
)
def test_reasons_that_may_pass(error: str, expected: bool) -> None:
    assert is_worth_a_retry("failed_to_download", error) is expected
    assert not is_worth_a_retry("failed_to_resize", error)
    assert not is_worth_a_retry("success", None)
