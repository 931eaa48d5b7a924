"""Certificates are checked by the name in the URL, whatever address it has."""

import datetime
import ssl
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from clipsieve.ingest.fetch import Fetcher
from clipsieve.ingest.outcomes import Outcome
from clipsieve.ingest.settings import IngestConfig
from clipsieve.ingest.urls import parse_url
from tests.ingest.server import Site, jpeg, serving


def certificate(folder: Path, days: int = 1) -> Path:
    """A certificate that signs itself, for secure.example and 127.0.0.1, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "secure.example")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("secure.example"), x509.IPAddress(ip_address("127.0.0.1"))]
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=3))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{days}.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(private + built.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    return certificate(tmp_path)


@pytest.fixture
def secure(pem: Path) -> Iterator[Site]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with serving(tls=context) as site:
        yield site


def fetch(url: str, trusted: Path | None) -> Outcome:
    config = IngestConfig(
        ("list",), "shards", allow_ranges=("127.0.0.0/8",), timeout_per_url=2, retries=0
    )
    tls = ssl.create_default_context(cafile=str(trusted)) if trusted else None
    fetcher = Fetcher(config, "1", lambda host, port: ["127.0.0.1"], tls)
    outcome = fetcher.attempt(parse_url(url), 0, time.monotonic() + 2)
    assert isinstance(outcome, Outcome)
    return outcome


@pytest.mark.parametrize("host", ["secure.example", "127.0.0.1"])
def test_a_trusted_certificate_of_that_name(secure: Site, pem: Path, host: str) -> None:
    assert fetch(secure.url("/good/1.jpg", host=host), pem).data == jpeg(1)


def test_of_another_name(secure: Site, pem: Path) -> None:
    outcome = fetch(secure.url("/good/1.jpg", host="other.example"), pem)
    assert outcome.error is not None
    assert outcome.error.startswith("TLS certificate: Hostname mismatch")
    assert not secure.requests


def test_nobody_trusts(secure: Site) -> None:
    outcome = fetch(secure.url("/good/1.jpg"), None)
    assert outcome.error is not None and outcome.error.startswith("TLS certificate: self")


def test_expired(tmp_path: Path) -> None:
    path = certificate(tmp_path, days=-1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    with serving(tls=context) as site:
        outcome = fetch(site.url("/good/1.jpg"), path)
    assert outcome.error == "TLS certificate: certificate has expired"


def test_a_server_without_tls(site: Site) -> None:
    outcome = fetch(site.url("/good/1.jpg").replace("http:", "https:"), None)
    assert outcome.error is not None and "TLS" in outcome.error
    assert outcome.may_pass


def test_a_redirect_from_https_to_a_private_address(pem: Path, secure: Site) -> None:
    outcome = fetch(secure.url("/to?http://10.0.0.1/x"), pem)
    assert outcome.error is not None
    assert outcome.error.startswith("address 10.0.0.1 is not public (redirect from https://")
