"""URLs that lead somewhere they must not: each is refused, with its reason in the ledger."""

import pytest

import clipsieve
from clipsieve.ingest.addresses import is_public
from clipsieve.ingest.outcomes import FetchError
from clipsieve.ingest.urls import parse_url
from tests.ingest.conftest import Ingesting
from tests.ingest.server import serving

SCHEME, ADDRESS, MALFORMED = "the URL is of scheme", "address ", "the URL "
#: {port} is that of a server on 127.0.0.1, which nobody may reach.
HOSTILE = [
    ("file:///etc/passwd", SCHEME),
    ("FILE:///etc/passwd", SCHEME),
    ("ftp://127.0.0.1/x.jpg", SCHEME),
    ("gopher://127.0.0.1:{port}/_GET", SCHEME),
    ("dict://127.0.0.1:{port}/info", SCHEME),
    ("data:image/jpeg;base64,/9j/4AAQ", SCHEME),
    ("javascript:alert(1)", SCHEME),
    ("localhost:{port}/x.jpg", SCHEME),
    ("//127.0.0.1:{port}/x.jpg", "the URL is without a scheme"),
    ("/etc/passwd", "the URL is without a scheme"),
    ("http:///x.jpg", "the URL has no host"),
    ("http://127.0.0.1:{port}/x.jpg", ADDRESS),
    ("http://localhost:{port}/x.jpg", ADDRESS),
    ("http://LOCALHOST:{port}/x.jpg", ADDRESS),
    ("http://127.1:{port}/x.jpg", ADDRESS),
    ("http://127.000.000.001:{port}/x.jpg", ADDRESS),
    ("http://2130706433:{port}/x.jpg", ADDRESS),
    ("http://0x7f000001:{port}/x.jpg", ADDRESS),
    ("http://0x7f.1:{port}/x.jpg", ADDRESS),
    ("http://0177.0.0.1:{port}/x.jpg", ADDRESS),
    ("http://0:{port}/x.jpg", ADDRESS),
    ("http://0.0.0.0:{port}/x.jpg", ADDRESS),
    ("http://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460:{port}/x.jpg", ADDRESS),
    ("http://127\u30020\u30020\u30021:{port}/x.jpg", ADDRESS),
    ("http://example.com@127.0.0.1:{port}/x.jpg", ADDRESS),
    ("http://127.0.0.1:{port}#@example.com/x.jpg", ADDRESS),
    ("http://127.0.0.1:{port}\\@example.com/x.jpg", MALFORMED),
    ("http://%31%32%37.0.0.1:{port}/x.jpg", MALFORMED),
    ("http://127.0.0.1:{port}\r\nHost: example.com/", MALFORMED),
    ("http://127.0.0.1:{port}00000/x.jpg", MALFORMED),
    ("http://[::1]:{port}/x.jpg", ADDRESS),
    ("http://[::]:{port}/x.jpg", ADDRESS),
    ("http://[::ffff:127.0.0.1]:{port}/x.jpg", ADDRESS),
    ("http://[::ffff:7f00:1]:{port}/x.jpg", ADDRESS),
    ("http://[0:0:0:0:0:ffff:127.0.0.1]:{port}/x.jpg", ADDRESS),
    ("http://[::127.0.0.1]:{port}/x.jpg", ADDRESS),
    ("http://[2002:7f00:1::]:{port}/x.jpg", ADDRESS),
    ("http://[64:ff9b::127.0.0.1]:{port}/x.jpg", ADDRESS),
    ("http://[64:ff9b:1::1]/x.jpg", ADDRESS),
    ("http://[2001:0:7f00:1::]/x.jpg", ADDRESS),
    ("http://[fe80::1]/x.jpg", ADDRESS),
    ("http://[fe80::1%25eth0]/x.jpg", MALFORMED),
    ("http://[v1.a:b]/x.jpg", MALFORMED),
    ("http://[fd00:ec2::254]/latest/meta-data", ADDRESS),
    ("http://[ff02::1]/x.jpg", ADDRESS),
    ("http://[2001:db8::1]/x.jpg", ADDRESS),
    ("http://169.254.169.254/latest/meta-data", ADDRESS),
    ("http://2852039166/latest/meta-data", ADDRESS),
    ("http://100.100.100.200/x.jpg", ADDRESS),
    ("http://10.0.0.1/x.jpg", ADDRESS),
    ("http://172.16.0.1/x.jpg", ADDRESS),
    ("http://192.168.1.1/x.jpg", ADDRESS),
    ("http://192.0.0.8/x.jpg", ADDRESS),
    ("http://198.18.0.1/x.jpg", ADDRESS),
    ("http://224.0.0.1/x.jpg", ADDRESS),
    ("http://255.255.255.255/x.jpg", ADDRESS),
    ("http://example.com:22/x.jpg", "port 22 "),
    ("http://example.com:25/x.jpg", "port 25 "),
    ("https://example.com:0/x.jpg", "port 0 "),
]
#: Where a server that may be reached redirects to.
REDIRECTS = [
    ("http://127.0.0.1:{port}/x.jpg", ADDRESS),
    ("http://localhost:{port}/x.jpg", ADDRESS),
    ("//127.0.0.1:{port}/x.jpg", ADDRESS),
    ("http://169.254.169.254/latest/meta-data", ADDRESS),
    ("http://[::ffff:127.0.0.1]:{port}/x.jpg", ADDRESS),
    ("file:///etc/passwd", SCHEME),
    ("http://example.com:22/x.jpg", "port 22 "),
]


def test_every_hostile_url_is_refused_with_its_reason_in_the_ledger(ingesting: Ingesting) -> None:
    assert len(HOSTILE) + len(REDIRECTS) >= 50
    with serving("127.0.0.1") as private, serving("127.0.0.2") as allowed:
        port = str(private.port)
        urls = [url.replace("{port}", port) for url, _ in HOSTILE]
        urls += [allowed.url("/to?" + url.replace("{port}", port)) for url, _ in REDIRECTS]
        good = allowed.url("/good/1.jpg")
        ingesting.write([*urls, good])
        result = ingesting(allow_ranges="127.0.0.2/32", rows_per_shard=100)
        assert not private.requests
        assert len(allowed.images()) == len(REDIRECTS) + 1
    assert (result.rows, result.successes) == (len(urls) + 1, 1)
    out = ingesting.path / "out"
    clipsieve.run(ingesting.shards, out, scorers="clip")
    query = "SELECT status, error FROM samples ORDER BY shard, row"
    ledger = clipsieve.connect(out).execute(query).fetchall()
    reasons = [reason for _, reason in HOSTILE + REDIRECTS]
    for url, reason, (status, error) in zip(urls, reasons, ledger, strict=False):
        assert (status, error[: len(reason)]) == ("fetch_failed", reason), url
    for url, (_, error) in zip(urls[len(HOSTILE) :], ledger[len(HOSTILE) :], strict=False):
        assert error.endswith(f"(redirect from {allowed.url('')})"), url
    assert ledger[-1] == ("ok", None)


@pytest.mark.parametrize(
    "text",
    [
        *("8.8.8.8", "93.184.216.34", "1.1.1.1", "172.32.0.1", "192.0.3.1", "100.128.0.1"),
        *("2606:4700::1111", "2a00:1450:4001::200e", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8"),
    ],
)
def test_public_addresses_are_public(text: str) -> None:
    from ipaddress import ip_address

    assert is_public(ip_address(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://Example.COM", "http://example.com/"),
        ("https://example.com:443/a?b#c", "https://example.com/a?b"),
        ("https://example.com:8443/a", "https://example.com:8443/a"),
        ("http://b\u00fccher.example/\u00fc", "http://xn--bcher-kva.example/%C3%BC"),
        ("http://example.com/a%20b%zz", "http://example.com/a%20b%zz"),
        ("http://example.com?x=1", "http://example.com/?x=1"),
        ("http://user:pass@example.com/x", "http://example.com/x"),
        ("http://[2606:4700::1111]:8080/x", "http://[2606:4700::1111]:8080/x"),
        ("  http://example.com/x \n", "http://example.com/x"),
    ],
)
def test_a_url_is_brought_to_one_form(text: str, expected: str) -> None:
    assert str(parse_url(text)) == expected


@pytest.mark.parametrize("text", [None, "", "  ", "http://", "http://a b/", "http://" + "a" * 9000])
def test_a_malformed_url_has_a_reason(text: str | None) -> None:
    with pytest.raises(FetchError, match="the URL "):
        parse_url(text)
