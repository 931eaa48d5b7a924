"""What img2dataset makes of a list of urls: run for real, on a server of this machine."""

import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

#: Rows of one tar.  Of the last tar every row fails.
ROWS, TARS = 20, 3
FAILURES = {"gone": "HTTP Error 404: Not Found", "text": "Image decoding error"}


def kind_of(row: int) -> str:
    """Return what the server answers for a row."""
    if row >= ROWS * (TARS - 1):
        return "gone"
    return {3: "gone", 4: "text"}.get(row % 7, "picture")


def picture(row: int) -> bytes:
    """Return the JPEG of a row."""
    buffer = io.BytesIO()
    Image.new("RGB", (48, 40), (row * 4, 255 - row * 4, row % 7 * 36)).save(buffer, "JPEG")
    return buffer.getvalue()


class _Pictures(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        kind, row = self.path.strip("/").split("/")
        content = picture(int(row)) if kind == "picture" else b"no picture"
        self.send_response(404 if kind == "gone" else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *values: object) -> None:
        """Write nothing to standard error."""


@contextmanager
def _served() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Pictures)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def download(folder: Path) -> Path:
    """Have img2dataset write tars and sidecars of `TARS * ROWS` rows; return their folder."""
    urls, out = folder / "urls.parquet", folder / "tars"
    with _served() as address:
        rows = range(ROWS * TARS)
        table = {
            "url": [f"{address}/{kind_of(row)}/{row}" for row in rows],
            "caption": [f"caption {row}" for row in rows],
            "uid": [f"{row:032x}" for row in rows],
            "row": list(rows),
        }
        pq.write_table(pa.table(table), urls)
        options = {
            **{"url_list": urls, "output_folder": out, "input_format": "parquet"},
            **{"url_col": "url", "caption_col": "caption", "output_format": "webdataset"},
            **{"save_additional_columns": "['uid','row']", "number_sample_per_shard": ROWS},
            **{"resize_mode": "no", "processes_count": 1, "thread_count": 4, "retries": 0},
        }
        done = subprocess.run(
            [sys.executable, "-m", "img2dataset.main"]
            + [f"--{name}={value}" for name, value in options.items()],
            env={**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    return out
