"""An S3 server of one process on loopback: moto's, which keeps objects in its memory.

    python -m tests.object_stores.server PORT [--latency SECONDS] [--unconditional]

It counts requests, can answer late, and can ignore the conditions of writes, as some stores do.
"""

import argparse
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
#: Where the server answers for itself.
_CONTROL = "/-/"
BUCKET = "bucket"
#: Of a user who is nobody: the server takes any.
SECRET = "wJalrXUtnFEMI-a-secret-of-tests"


@dataclass(frozen=True)
class S3Server:
    """A running server.

    Attributes:
      endpoint: its address.
    """

    endpoint: str

    @property
    def environment(self):
        """Variables with which every S3 client uses it."""
        return {
            "AWS_ACCESS_KEY_ID": "AKIA-OF-TESTS",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
        }

    def requests(self) -> list[str]:
        """Return the requests since the last call, each as `METHOD path`; ` list` for listings."""
        return list(self._ask("requests"))

    def set_latency(self, seconds: float) -> None:
        """Answer every request so much later."""
        self._ask(f"latency/{seconds}")

    def _ask(self, word: str):
        with urllib.request.urlopen(f"{self.endpoint}{_CONTROL}{word}") as answer:
            return json.load(answer)


@contextmanager
def s3_server(*options: str) -> Iterator[S3Server]:
    """Run a server with one bucket for the length of the block; clients here use it too."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "tests.object_stores.server", str(port), *options]
    process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE)
    server = S3Server(f"http://127.0.0.1:{port}")
    before = dict(os.environ)
    try:
        _wait_for(process, port)
        os.environ.update(server.environment)
        _forget_clients()
        import fsspec

        fsspec.filesystem("s3").mkdir(BUCKET)
        server.requests()
        yield server
    finally:
        os.environ.clear()
        os.environ.update(before)
        _forget_clients()
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _forget_clients() -> None:
    """Make new clients: fsspec keeps those of another server, by the same options."""
    import fsspec

    fsspec.get_filesystem_class("s3").clear_instance_cache()


def _wait_for(process, port: int) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise RuntimeError(f"the S3 server ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the S3 server does not answer")


class _Application:
    """moto's application with counts, latency, and without conditions if so asked."""

    def __init__(self, latency: float, unconditional: bool) -> None:
        from moto import server as moto_server

        dispatcher: Any = moto_server
        self._inner = dispatcher.DomainDispatcherApplication(dispatcher.create_backend_app)
        self._latency, self._unconditional = latency, unconditional
        self._requests: list[str] = []

    def __call__(self, environ, start_response):
        path = environ["PATH_INFO"]
        if path.startswith(_CONTROL):
            return self._control(path.removeprefix(_CONTROL), start_response)
        query = environ.get("QUERY_STRING", "")
        listing = " list" if "list-type" in query else ""
        self._requests.append(f"{environ['REQUEST_METHOD']} {path}{listing}")
        if self._unconditional:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        if self._latency:
            time.sleep(self._latency)
        return self._inner(environ, start_response)

    def _control(self, word: str, start_response):
        answer: object = None
        if word == "requests":
            answer, self._requests = self._requests, []
        else:
            self._latency = float(word.removeprefix("latency/"))
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(answer).encode()]


def kinds(requests: list[str]) -> Counter[str]:
    """Return how many requests there are of each method, listings apart."""
    return Counter(
        "LIST" if request.endswith(" list") else request.partition(" ")[0] for request in requests
    )


def main() -> None:
    from werkzeug.serving import run_simple

    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--unconditional", action="store_true")
    options = parser.parse_args()

    def exit_with_parent() -> None:
        while os.read(0, 4096):
            pass
        os._exit(0)

    threading.Thread(target=exit_with_parent, daemon=True).start()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = _Application(options.latency, options.unconditional)
    run_simple("127.0.0.1", options.port, application, threaded=True)


if __name__ == "__main__":
    main()
