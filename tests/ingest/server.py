"""A web server on loopback that behaves as well, and as badly, as a list of URLs will meet."""

import gzip
import io
import ssl
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image


def jpeg(number: int, size: int = 48) -> bytes:
    """A small picture of its own for each number."""
    pixels = np.random.default_rng(number).integers(0, 255, (size, size, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=70)
    return content.getvalue()


class Site:
    """What the server does, and what was asked of it."""

    def __init__(self, host: str, port: int, scheme: str = "http") -> None:
        self.host, self.port, self.scheme = host, port, scheme
        self.requests: Counter[str] = Counter()
        self.user_agents: set[str] = set()
        self.headers: list[dict[str, str]] = []
        self.robots: bytes | int = 404
        self.latency = 0.0
        self.active: Counter[str] = Counter()
        self.most_active: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.pages: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.times: defaultdict[str, list[float]] = defaultdict(list)

    def url(self, path: str, host: str | None = None) -> str:
        return f"{self.scheme}://{host or self.host}:{self.port}{path}"

    def images(self) -> Counter[str]:
        """Requests of everything but robots.txt."""
        return Counter({k: v for k, v in self.requests.items() if k != "/robots.txt"})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        site, host = self.site, self.headers.get("Host", "")
        path = self.path
        with site.lock:
            site.requests[path] += 1
            site.user_agents.add(self.headers.get("User-Agent", ""))
            site.headers.append(dict(self.headers.items()))
            site.times[path].append(time.monotonic())
            site.active[host] += 1
            site.most_active[host] = max(site.most_active[host], site.active[host])
        self.close_connection = True
        time.sleep(site.latency)
        with site.lock:  # before the answer, after which the client may send its next request
            site.active[host] -= 1
        with suppress(OSError):
            self._serve(path)

    def _serve(self, path: str) -> None:
        site = self.site
        if path in site.pages:
            site.pages[path](self)
        elif path == "/robots.txt":
            if isinstance(site.robots, int):
                answer(self, b"no", site.robots)
            else:
                answer(self, site.robots, type="text/plain")
        elif path.startswith("/good/"):
            answer(self, jpeg(int(path.split("/")[2].removesuffix(".jpg"))))
        elif path.startswith("/status/"):
            answer(self, b"no", int(path.split("/")[2]))
        elif path.startswith("/redirect/"):
            count = int(path.rsplit("/", 1)[1])
            answer(
                self,
                b"",
                302,
                headers={"Location": f"/redirect/{count - 1}" if count else "/good/1.jpg"},
            )
        elif path == "/loop":
            answer(self, b"", 302, headers={"Location": "/loop"})
        elif path.startswith("/to?"):
            answer(self, b"", 302, headers={"Location": path[4:]})
        elif path == "/html-type":
            answer(self, jpeg(1), type="text/html")
        elif path == "/html":
            answer(self, b"<html><body>gone fishing</body></html>", type="image/jpeg")
        elif path == "/svg":
            answer(self, b"<svg xmlns='http://www.w3.org/2000/svg'/>", type="image/svg+xml")
        elif path == "/empty":
            answer(self, b"")
        elif path.startswith("/noai"):
            answer(self, jpeg(2), headers={"X-Robots-Tag": path[5:].replace("_", " ") or "noai"})
        elif path == "/gzip":
            answer(self, gzip.compress(jpeg(3)), headers={"Content-Encoding": "gzip"})
        elif path == "/bomb":
            content = gzip.compress(bytes(50 << 20))
            answer(self, content, headers={"Content-Encoding": "gzip"})
        elif path == "/brotli":
            answer(self, b"x", headers={"Content-Encoding": "br"})
        elif path == "/truncated":
            data = jpeg(4)
            answer(self, data[:200], length=len(data))
        elif path == "/drip":
            head(self, 200, 100_000)
            while True:
                self.wfile.write(b"\xff")
                self.wfile.flush()
                time.sleep(0.05)
        elif path == "/drip-head":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            for number in range(1000):
                self.wfile.write(f"X-{number}: y\r\n".encode())
                self.wfile.flush()
                time.sleep(0.05)
        elif path == "/silent":
            time.sleep(5)
        elif path in ("/endless", "/400mb"):
            head(self, 200, 400 << 20 if path == "/400mb" else None)
            block = bytes(1 << 16)
            for _ in range(400 << 4):
                self.wfile.write(block)
        elif path == "/chunked":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            data = jpeg(5)
            for at in range(0, len(data), 100):
                piece = data[at : at + 100]
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
        elif path == "/garbage":
            self.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        elif path == "/reset":
            self.connection.close()
        else:
            answer(self, b"not here", 404)


def head(
    handler: Any, status: int, length: int | None, headers: dict[str, str] | None = None
) -> None:
    handler.send_response(status)
    if length is not None:
        handler.send_header("Content-Length", str(length))
    handler.send_header("Connection", "close")
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.end_headers()


def answer(
    handler: Any,
    body: bytes,
    status: int = 200,
    type: str = "image/jpeg",
    length: int | None = None,
    headers: dict[str, str] | None = None,
) -> None:
    head(
        handler,
        status,
        len(body) if length is None else length,
        {"Content-Type": type, **(headers or {})},
    )
    handler.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients go away, and TLS is refused: that is what is tested


@contextmanager
def serving(
    host: str = "127.0.0.1",
    bind: str = "",
    tls: ssl.SSLContext | None = None,
) -> Iterator[Site]:
    """Serve on a free port of loopback; `host` is what URLs name."""
    handler = type("Handler", (_Handler,), {})
    server = _Server((bind or host, 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    site = handler.site = Site(host, server.server_port, "https" if tls else "http")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
