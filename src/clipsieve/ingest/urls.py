"""URLs as they stand in lists, brought to a form that can be asked for, or refused."""

import re
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import quote, urljoin, urlsplit

from clipsieve.ingest.outcomes import FetchError

#: Longer URLs are refused.
MAX_URL = 8_192
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_.])?")
_DEFAULT_PORTS = {"http": 80, "https": 443}
#: Characters that stay as they are in a path and a query; `%` begins what is escaped already.
_SAFE = "/?:@!$&'()*+,;=-._~%[]|"


@dataclass(frozen=True, slots=True)
class Url:
    """A URL that can be asked for.

    Attributes:
      scheme: http or https.
      host: in lower case, as sent to the resolver; an IPv6 address without brackets.
      port: of the connection.
      target: path and query, escaped.
    """

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """Host and port as in the header `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """Scheme, host and port: what a robots.txt is for."""
        return f"{self.scheme}://{self.authority}"

    def __str__(self) -> str:
        """The whole URL."""
        return self.origin + self.target

    def joined(self, location: str) -> "Url":
        """Return the URL that a redirect leads to.

        Raises:
          FetchError: it cannot be asked for.
        """
        return parse_url(urljoin(str(self), location.strip()))


def parse_url(text: str | None) -> Url:
    """Return a URL of a list in a form that can be asked for.

    User name and password are left out, as is what follows `#`.

    >>> str(parse_url(" HTTP://me:secret@Example.com:80/a b?q=ü#top "))
    'http://example.com/a%20b?q=%C3%BC'

    Raises:
      FetchError: it is NULL, malformed, or of another scheme than http and https.
    """
    if text is None:
        raise FetchError("the URL is NULL")
    text = text.strip()
    if not text:
        raise FetchError("the URL is empty")
    if len(text) > MAX_URL:
        raise FetchError(f"the URL has {len(text):,} characters, more than {MAX_URL:,}")
    if any(letter < " " or letter == "\x7f" for letter in text):
        raise FetchError("the URL has control characters")
    try:
        parts = urlsplit(text)
        scheme, host, port = parts.scheme.lower(), parts.hostname or "", parts.port
    except ValueError as error:
        raise FetchError(f"the URL is malformed: {error}") from None
    if scheme not in _DEFAULT_PORTS:
        named = f"of scheme {scheme!r}" if scheme else "without a scheme"
        raise FetchError(f"the URL is {named}; only http and https are fetched")
    if "\\" in parts.netloc:  # browsers end the host there, others do not
        raise FetchError("the URL has a backslash before its path")
    if not parts.netloc or not host:
        raise FetchError("the URL has no host")
    port = _DEFAULT_PORTS[scheme] if port is None else port
    if port not in (80, 443) and port < 1024:
        raise FetchError(f"port {port} is not one of 80, 443, and 1024 and more")
    target = quote(parts.path or "/", safe=_SAFE) + (
        f"?{quote(parts.query, safe=_SAFE)}" if parts.query else ""
    )
    return Url(scheme, _host(host), port, target if target.startswith("/") else "/" + target)


def _host(host: str) -> str:
    """A host in ASCII; full-width digits become digits before they are looked at."""
    if ":" in host:
        try:
            address = ip_address(host)
        except ValueError:
            raise FetchError("the URL has brackets around what is no address") from None
        if "%" in host:
            raise FetchError("the URL has an address with a zone")
        return str(address)
    try:
        name = host.encode("idna").decode("ascii").lower() if not host.isascii() else host
    except UnicodeError as error:
        raise FetchError(f"the URL has no valid host: {error}") from None
    if len(name) > 253 or not _HOST.fullmatch(name):
        raise FetchError(f"the URL has no valid host: {name[:80]!r}")
    return name
