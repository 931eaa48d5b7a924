"""One request and its answer, under a deadline and a limit of bytes.

Nothing of the environment takes part: no proxy, no cookies, no credentials.
"""

import io
import socket
import ssl
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse, IncompleteRead
from typing import Any

from clipsieve.ingest.addresses import Addresses, error_text
from clipsieve.ingest.outcomes import FetchError
from clipsieve.ingest.urls import Url

_CHUNK = 1 << 18
_BUFFER = 1 << 16
#: Content encodings that are undone although none was asked for.
_GZIP = ("gzip", "x-gzip", "deflate")


class _DeadlineReader(io.RawIOBase):
    """Reads from a socket until a moment, however slowly bytes come."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock, self._deadline = sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        return self._sock.recv_into(buffer)


class _Socket:
    """What `HTTPResponse` asks of a socket."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._reader = _DeadlineReader(sock, deadline)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self._reader, _BUFFER)


class Answer:
    """A response whose body is not read yet."""

    def __init__(self, response: HTTPResponse, seconds: float) -> None:
        """Take a response whose head was read."""
        self._response = response
        self._seconds = seconds
        self.status = response.status
        self.headers = response.headers

    @property
    def status_text(self) -> str:
        """The status as in `HTTP 404 Not Found`."""
        return f"HTTP {self.status} {self._response.reason}".rstrip()

    def retry_after(self) -> float | None:
        """Seconds that `Retry-After` asks to wait, given in seconds or as a date."""
        text = (self.headers.get("Retry-After") or "").strip()
        if text.isdecimal():
            return min(float(text[:12]), 1e9)
        try:
            return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
        except (TypeError, ValueError, OverflowError, IndexError):
            return None

    def start(self, limit: int) -> bytes:
        """Return the first bytes of a body that may be longer, in no content encoding."""
        with read_errors(self._seconds):
            pieces, left = [], limit
            while left and (piece := self._response.read(min(left, _CHUNK))):
                pieces.append(piece)
                left -= len(piece)
        return b"".join(pieces)

    def body(self, limit: int) -> bytes:
        """Return the whole body, transport and content encoding undone.

        Raises:
          FetchError: it is longer, ends too early, or is in another encoding.
        """
        encoding = (self.headers.get("Content-Encoding") or "identity").strip().lower()
        if encoding not in ("identity", "", *_GZIP):
            raise FetchError(f"Content-Encoding {encoding} is not known, and was not asked for")
        length = self._response.length
        if length is not None and length > limit:
            raise _too_large(limit)
        content = b"".join(self._pieces(limit))
        if encoding in _GZIP:
            return _decompressed(content, limit)
        return content

    def _pieces(self, limit: int) -> Iterator[bytes]:
        read = 0
        response = self._response
        with read_errors(self._seconds):
            while piece := response.read(_CHUNK):
                read += len(piece)
                if read > limit:
                    raise _too_large(limit)
                yield piece
            if response.length:
                total = read + response.length
                raise FetchError(f"the body ended after {read:,} of {total:,} bytes", may_pass=True)


@contextmanager
def requesting(
    url: Url,
    addresses: Addresses,
    headers: str,
    tls: ssl.SSLContext,
    deadline: float,
    seconds: float,
) -> Iterator[Answer]:
    """Ask for a URL, and give the answer; the connection is closed with the block.

    Args:
      url: to ask for.
      addresses: what may be connected to.
      headers: of the request, each with its line end; `Host` is added.
      tls: certificates that are trusted.
      deadline: by `time.monotonic`, for everything.
      seconds: the length of time that ends there, for messages.

    Raises:
      FetchError: there is no answer in time, or it is not HTTP.
    """
    sock = addresses.connect(url.host, url.port, deadline)
    response: HTTPResponse | None = None
    try:
        with read_errors(seconds):
            sock.settimeout(max(1e-3, deadline - time.monotonic()))
            if url.scheme == "https":
                sock = tls.wrap_socket(sock, server_hostname=url.host)
                sock.settimeout(max(1e-3, deadline - time.monotonic()))
            head = f"GET {url.target} HTTP/1.1\r\nHost: {url.authority}\r\n{headers}\r\n"
            sock.sendall(head.encode("ascii"))
            response = HTTPResponse(_Socket(sock, deadline), method="GET")  # type: ignore[arg-type]
            response.begin()
        yield Answer(response, seconds)
    finally:
        if response is not None:
            response.close()
        sock.close()


@contextmanager
def read_errors(seconds: float) -> Iterator[None]:
    """Within the block raise what a server does wrong as `FetchError`."""
    try:
        yield
    except TimeoutError:
        raise FetchError(f"no complete answer within {seconds:g} s", may_pass=True) from None
    except ssl.SSLCertVerificationError as error:
        raise FetchError(f"TLS certificate: {error.verify_message}") from None
    except ssl.SSLError as error:
        raise FetchError(f"TLS: {error.reason or error_text(error)}", may_pass=True) from None
    except IncompleteRead as error:
        raise FetchError(f"the body ended early: {error}", may_pass=True) from None
    except HTTPException as error:
        text = str(error) or type(error).__name__
        raise FetchError(f"the answer is not HTTP: {text}", may_pass=True) from None
    except OSError as error:
        raise FetchError(f"connection lost: {error_text(error)}", may_pass=True) from None
    except ValueError as error:  # a chunk's size, a header that cannot be decoded
        raise FetchError(f"the answer is not HTTP: {error}", may_pass=True) from None


def _decompressed(content: bytes, limit: int) -> bytes:
    """Undo gzip or deflate, at most to `limit` bytes."""
    decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        data = decoder.decompress(content, limit + 1)
    except zlib.error as error:
        raise FetchError(f"the compressed body is damaged: {error}") from None
    if len(data) > limit:
        raise _too_large(limit, "decompressed ")
    if not decoder.eof:
        raise FetchError("the compressed body ended early", may_pass=True)
    return data


def _too_large(limit: int, what: str = "") -> FetchError:
    megabytes = limit / (1 << 20)
    text = f"{megabytes:g} MB" if megabytes >= 1 and limit % (1 << 10) == 0 else f"{limit:,} bytes"
    return FetchError(f"more than {text} {what}".rstrip())
