"""One URL to the bytes of its image: robots.txt, redirects, limits, and the reason of a failure."""

import random
import ssl
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from ipaddress import ip_network

from clipsieve.ingest.addresses import Addresses, Resolver, system_resolver
from clipsieve.ingest.http import Answer, requesting
from clipsieve.ingest.outcomes import FetchError, Outcome
from clipsieve.ingest.picture import outcome_of_image
from clipsieve.ingest.robots import (
    MAX_ROBOTS,
    PRODUCT,
    RobotsCache,
    Rules,
    is_disallowed_by_tag,
    parse_robots,
)
from clipsieve.ingest.settings import DISALLOWED_DIRECTIVES, IngestConfig
from clipsieve.ingest.urls import Url, parse_url

#: As browsers follow, and RFC 9309 asks for of robots.txt.
MAX_REDIRECTS, MAX_ROBOTS_REDIRECTS = 10, 5
_REDIRECTS = (301, 302, 303, 307, 308)
#: Answers of a client's error that may pass.
_PASSING = (408, 425, 429)
_BACKOFF_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Retry:
    """A failed attempt that another one may follow.

    Attributes:
      error: why it failed.
      seconds: to wait before the next.
      is_for_host: whether the server asked for it, of everybody.
    """

    error: FetchError
    seconds: float
    is_for_host: bool


class Fetcher:
    """Fetches URLs; any number of threads may use one."""

    def __init__(
        self,
        config: IngestConfig,
        version: str,
        resolver: Resolver = system_resolver,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Take limits and policy of the settings.

        Args:
          config: the settings.
          version: of clipsieve, for the User-Agent.
          resolver: of names.
          tls: certificates that are trusted; None is the system's.
        """
        self.seconds = config.timeout_per_url
        self._retries = config.retries
        self._max_bytes = config.max_bytes
        networks = tuple(map(ip_network, config.allow_ranges))
        self._addresses = Addresses(config.allow_private, networks, resolver)
        self._tls = tls or ssl.create_default_context()
        self._robots = RobotsCache(self._read_robots) if config.robots else None
        self._head = (
            f"User-Agent: {PRODUCT}/{version} (+{config.contact})\r\n"
            "Accept: image/*,*/*;q=0.8\r\nAccept-Encoding: identity\r\nConnection: close\r\n"
        )

    def attempt(self, url: Url, attempts: int, deadline: float) -> Outcome | Retry:
        """Ask for a URL once; return its outcome, or what to wait for before the next attempt.

        Args:
          url: to ask for.
          attempts: that were made before.
          deadline: by `time.monotonic`, for all attempts.
        """
        try:
            return self._image(url, deadline)
        except FetchError as error:
            return self._failed(error, attempts, deadline)

    def _failed(self, error: FetchError, attempts: int, deadline: float) -> Outcome | Retry:
        failure = Outcome(error.status, error.reason)
        left = deadline - time.monotonic()
        if not error.may_pass or left <= 0:
            return failure
        if error.wait is not None and error.wait >= left:
            reason = f"{error.reason}, which asks to wait {error.wait:.0f} s"
            late = FetchError(reason, may_pass=True, wait=error.wait)
            return Retry(late, error.wait, True)
        if attempts >= self._retries:
            return failure
        if error.wait is not None:
            return Retry(error, error.wait, True)
        pause = _BACKOFF_SECONDS * 2**attempts * random.uniform(0.5, 1.5)
        return failure if pause >= left else Retry(error, pause, False)

    def _image(self, url: Url, deadline: float) -> Outcome:
        """Follow a URL to the bytes of an image."""
        first = url
        for _ in range(MAX_REDIRECTS + 1):
            try:
                if self._robots is not None:
                    self._require_robots(url, deadline)
                with self._requesting(url, deadline) as answer:
                    if answer.status not in _REDIRECTS:
                        return self._taken(answer)
                    location = _location(answer)
            except FetchError as error:
                if url is first:
                    raise
                raise _redirected(error, first) from None
            try:
                url = url.joined(location)
            except FetchError as error:
                raise _redirected(error, first) from None
        raise FetchError(f"more than {MAX_REDIRECTS} redirects")

    def _requesting(self, url: Url, deadline: float) -> AbstractContextManager[Answer]:
        return requesting(url, self._addresses, self._head, self._tls, deadline, self.seconds)

    def _taken(self, answer: Answer) -> Outcome:
        """Return the image in an answer."""
        if answer.status != 200:
            may_pass = answer.status >= 500 or answer.status in _PASSING
            wait = answer.retry_after() if answer.status in (429, 503) else None
            raise FetchError(answer.status_text, may_pass=may_pass, wait=wait)
        tags = answer.header_values("x-robots-tag")
        directive = is_disallowed_by_tag(tags, DISALLOWED_DIRECTIVES) if tags else None
        if directive is not None:
            raise FetchError(f"X-Robots-Tag: {directive}")
        return outcome_of_image(answer.body(self._max_bytes))

    def _require_robots(self, url: Url, deadline: float) -> None:
        assert self._robots is not None
        if not self._robots.rules(url.origin, deadline).allows(url.target):
            raise FetchError(f"disallowed by robots.txt of {url.origin}")

    def _read_robots(self, origin: str, deadline: float) -> Rules | FetchError:
        """Return what an origin's robots.txt says; a client's error allows everything."""
        url = first = parse_url(origin + "/robots.txt")
        try:
            for _ in range(MAX_ROBOTS_REDIRECTS + 1):
                with self._requesting(url, deadline) as answer:
                    if answer.status in _REDIRECTS:
                        url = url.joined(_location(answer))
                        continue
                    if answer.status >= 500 or answer.status == 429:
                        reason = f"robots.txt of {origin} cannot be read: {answer.status_text}"
                        return FetchError(reason, may_pass=True)
                    if answer.status != 200:
                        return Rules()
                    content = answer.start(MAX_ROBOTS)
                return parse_robots(content.decode("utf-8", "replace"))
            return Rules()  # RFC 9309: may be taken for unavailable
        except FetchError as error:
            if url is first and not error.may_pass:
                return error  # an address that is refused is the URL's own
            reason = f"robots.txt of {origin} cannot be read: {error.reason}"
            return FetchError(reason, may_pass=error.may_pass)


def _redirected(error: FetchError, first: Url) -> FetchError:
    """Return an error of a place that a redirect leads to, naming where it came from."""
    reason = f"{error.reason} (redirect from {first.origin})"
    return FetchError(reason, may_pass=error.may_pass, wait=error.wait, status=error.status)


def _location(answer: Answer) -> str:
    location = answer.header("location")
    if not location:
        raise FetchError(f"{answer.status_text} without a Location")
    # headers are read as Latin-1; most servers send UTF-8
    return location.encode("latin-1", "replace").decode("utf-8", "replace")
