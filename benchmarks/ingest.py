"""Images a second and memory of `clipsieve ingest` against plain img2dataset, in turns.

    python benchmarks/ingest.py /tmp/ingest-bench --images 4000 --rounds 3

Both fetch the same list from a server on loopback, a process of its own that answers from memory,
at once and 200 ms late.  Both keep the original bytes, their sha256 and EXIF, with as many
processes and threads; img2dataset with `--resize_mode no --disable_all_reencoding True`.

A rate is of the time from the first request to the last file: neither start is in it, and
img2dataset takes some seconds for its own.  The seconds of the whole command stand beside it.
Memory is the largest sum of resident sizes over all processes of a command.
"""

import argparse
import asyncio
import io
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

#: Addresses of the server, as hosts; all of 127.0.0.0/8 is loopback on Linux.
HOSTS = 64
PICTURES = 100

IMG2DATASET = """
import json, sys
from img2dataset import download

if __name__ == "__main__":
    download(**json.loads(sys.argv[1]))
"""


def pictures() -> list[bytes]:
    """JPEGs of about 20 kB."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(PICTURES):
        coarse = rng.integers(0, 255, (40, 40, 3), np.uint8)
        picture = Image.fromarray(coarse).resize((320, 320), Image.Resampling.BICUBIC)
        noise = rng.normal(0, 12, (320, 320, 3))
        pixels = np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8)
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "JPEG", quality=72)
        made.append(content.getvalue())
    return made


def serve(port: Any, latency: float) -> None:
    """Answer requests for pictures, so late; `/__first` tells when the first came, and forgets."""
    made = pictures()
    heads = [
        b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n"
        b"Connection: close\r\n\r\n" % len(data)
        for data in made
    ]
    first: list[float] = []

    class Answering(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            self.head = b""

        def data_received(self, data: bytes) -> None:
            self.head += data
            if b"\r\n\r\n" not in self.head:
                return
            path = self.head.split(b" ", 2)[1]
            if path == b"/__first":
                body = json.dumps(first[:1]).encode()
                first.clear()
                self.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            elif path == b"/robots.txt":
                self.answer(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            else:
                first.append(time.time())
                number = int(path[1:-4]) % PICTURES
                content = heads[number] + made[number]
                if latency:
                    asyncio.get_running_loop().call_later(latency, self.answer, content)
                else:
                    self.answer(content)

        def answer(self, content: bytes) -> None:
            self.transport.write(content)
            self.transport.close()

    async def run() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Answering, "0.0.0.0", 0, backlog=1024)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def measured(command: list[str]) -> tuple[float, float]:
    """Run a command; return its seconds and its largest memory in MB."""
    start = time.perf_counter()
    environment = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    )
    root = psutil.Process(process.pid)
    largest = 0
    while process.poll() is None:
        total = 0
        try:
            for one in (root, *root.children(recursive=True)):
                total += one.memory_info().rss
        except psutil.Error:
            pass
        largest = max(largest, total)
        time.sleep(0.1)
    assert process.stderr is not None
    error = process.stderr.read().decode()
    if process.returncode:
        raise SystemExit(f"{command} failed:\n{error}")
    return time.perf_counter() - start, largest / (1 << 20)


def command_of(name: str, folder: Path, options: argparse.Namespace) -> list[str]:
    """Return the command of one of the two."""
    urls, shards = folder / "list.parquet", folder / name
    if name == "clipsieve":
        return [
            *(sys.executable, "-m", "clipsieve.cli", "ingest", str(urls), str(shards)),
            *("--rows-per-shard", str(options.rows_per_shard), "--allow-ranges", "127.0.0.0/8"),
            *("--processes", str(options.processes), "--threads", str(options.threads)),
        ]
    program = folder / "program.py"
    program.write_text(IMG2DATASET)
    settings = {
        "url_list": str(urls),
        "output_folder": str(shards),
        "input_format": "parquet",
        "url_col": "url",
        "caption_col": "caption",
        "output_format": "parquet",
        "resize_mode": "no",
        "disable_all_reencoding": True,
        "number_sample_per_shard": options.rows_per_shard,
        "processes_count": options.processes,
        "thread_count": options.threads,
    }
    return [sys.executable, str(program), json.dumps(settings)]


def check(shards: Path, images: int) -> None:
    """Refuse a folder that lacks images."""
    found = 0
    for path in shards.glob("*.parquet"):
        found += pq.read_table(path, columns=["status"])["status"].to_pylist().count("success")
    if found != images:
        raise SystemExit(f"{shards} has {found} images, not {images}")


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows-per-shard", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--latencies", type=float, nargs="+", default=[0.0, 0.2])
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for latency in options.latencies:
        ours, theirs = context.Pipe(duplex=False)
        server = context.Process(target=serve, args=(theirs, latency), daemon=True)
        server.start()
        port = ours.recv()
        options.folder.mkdir(parents=True, exist_ok=True)
        urls = [f"http://127.0.0.{1 + n % HOSTS}:{port}/{n}.jpg" for n in range(options.images)]
        table = pa.table({"url": urls, "caption": [f"picture {n}" for n in range(options.images)]})
        pq.write_table(table, options.folder / "list.parquet")
        rates, whole, memory = defaultdict(list), defaultdict(list), defaultdict(list)
        for turn in range(options.rounds):
            names = ["img2dataset", "clipsieve"]
            for name in names if turn % 2 == 0 else names[::-1]:
                shards = options.folder / name
                shutil.rmtree(shards, ignore_errors=True)
                seconds, megabytes = measured(command_of(name, options.folder, options))
                with urlopen(f"http://127.0.0.1:{port}/__first") as answer:
                    (first,) = json.load(answer)
                last = max(path.stat().st_mtime for path in shards.glob("*_stats.json"))
                check(shards, options.images)
                rates[name].append(options.images / (last - first))
                whole[name].append(seconds)
                memory[name].append(megabytes)
        print(f"latency {latency * 1000:.0f} ms, {options.images} images, {options.processes} "
              f"processes of {options.threads} threads")  # fmt: skip
        for name in ("img2dataset", "clipsieve"):
            print(
                f"  {name:12} {statistics.median(rates[name]):7.0f} images/s "
                f"({', '.join(f'{rate:.0f}' for rate in rates[name])}), "
                f"{statistics.median(whole[name]):.1f} s in all, "
                f"{statistics.median(memory[name]):.0f} MB"
            )
        pairs = zip(rates["clipsieve"], rates["img2dataset"], strict=True)
        print(f"  ratio        {statistics.median(a / b for a, b in pairs):.2f}", flush=True)
        server.terminate()


if __name__ == "__main__":
    main()
