"""One request and its answer, under a deadline and a limit of bytes.

Nothing of the environment takes part: no proxy, no cookies, no credentials.
"""

import io
import socket
import ssl
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse, IncompleteRead, LineTooLong
from typing import Any

from clipsieve.ingest.addresses import Addresses, error_text
from clipsieve.ingest.outcomes import FetchError
from clipsieve.ingest.urls import Url

_CHUNK = 1 << 18
_BUFFER = 1 << 16
#: Of the head of an answer, as `http.client` has them.
_MAX_LINE, _MAX_FIELDS = 1 << 16, 100
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


class _Response(HTTPResponse):
    """A response whose head is read by hand: the parser of mail that the base asks takes 0.1 ms."""

    def begin(self) -> None:
        while True:
            version, status, self.reason = self._read_status()  # type: ignore[attr-defined]
            fields = self._read_fields()
            if not 100 <= status < 200:
                break
        self.code = self.status = status
        self.version = 10 if version in ("HTTP/1.0", "HTTP/0.9") else 11
        self.fields = fields
        self.will_close = True
        encodings = fields.get("transfer-encoding", [])
        self.chunked = bool(encodings) and encodings[-1].strip().lower() == "chunked"
        self.chunk_left = None
        self.length = None
        lengths = {text.strip() for text in fields.get("content-length", [])}
        if status in (204, 304):
            self.length = 0
        elif lengths and not self.chunked:
            text = lengths.pop()
            if lengths or not (text.isascii() and text.isdigit()):
                raise HTTPException(f"Content-Length {text[:40]!r}")
            self.length = int(text[:20])

    def _read_fields(self) -> dict[str, list[str]]:
        """Return the header fields by their names in lower case."""
        fields: dict[str, list[str]] = {}
        last: list[str] | None = None
        for _ in range(_MAX_FIELDS):
            line = self.fp.readline(_MAX_LINE + 1)
            if len(line) > _MAX_LINE:
                raise LineTooLong("header line")
            if line in (b"\r\n", b"\n", b""):
                return fields
            text = line.decode("latin-1").rstrip("\r\n")
            if text[:1] in " \t":  # of the line before, in an old form
                if last:
                    last[-1] += " " + text.strip()
                continue
            name, _, value = text.partition(":")
            last = fields.setdefault(name.strip().lower(), [])
            last.append(value.strip())
        raise HTTPException(f"more than {_MAX_FIELDS} header lines")


class Answer:
    """A response whose body is not read yet."""

    def __init__(self, response: _Response, seconds: float) -> None:
        """Take a response whose head was read."""
        self._response = response
        self._seconds = seconds
        self.status: int = response.status

    def header(self, name: str) -> str:
        """Return the first field of a name in lower case; "" if there is none."""
        return next(iter(self._response.fields.get(name, ())), "")

    def header_values(self, name: str) -> Sequence[str]:
        """Return all fields of a name in lower case."""
        return self._response.fields.get(name, ())

    @property
    def status_text(self) -> str:
        """The status as in `HTTP 404 Not Found`."""
        return f"HTTP {self.status} {self._response.reason}".rstrip()

    def retry_after(self) -> float | None:
        """Seconds that `Retry-After` asks to wait, given in seconds or as a date."""
        text = self.header("retry-after")
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
        encoding = self.header("content-encoding").lower()
        if encoding not in ("", "identity", *_GZIP):
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
    response: _Response | None = None
    try:
        with read_errors(seconds):
            sock.settimeout(max(1e-3, deadline - time.monotonic()))
            if url.scheme == "https":
                sock = tls.wrap_socket(sock, server_hostname=url.host)
                sock.settimeout(max(1e-3, deadline - time.monotonic()))
            head = f"GET {url.target} HTTP/1.1\r\nHost: {url.authority}\r\n{headers}\r\n"
            sock.sendall(head.encode("ascii"))
            response = _Response(_Socket(sock, deadline), method="GET")  # type: ignore[arg-type]
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
    except ConnectionError as error:  # http.client's RemoteDisconnected is one, too
        raise FetchError(f"connection lost: {error_text(error)}", may_pass=True) from None
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
