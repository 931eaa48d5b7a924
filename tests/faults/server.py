"""A process with everything imported that forks one child for each command: `clipsieve ...` fast.

    python -m tests.faults.server < requests > answers

One JSON object a line each way; see `machine.Command` and `machine.Ended`.  A child is a process
like one from a shell: its own session, environment, limits, user, current folder and standard
streams, and it runs `clipsieve.cli.main`.  What differs is that modules are imported already.
Descendants that outlive the child are counted and killed, so that cases do not disturb each other.
"""

import base64
import ctypes
import json
import os
import resource
import selectors
import signal
import sys
import time
from io import TextIOWrapper
from typing import Any

from tests.faults import hook

PR_SET_CHILD_SUBREAPER = 36
#: Imported before the first fork; pipelines import the rest.
MODULES = (
    "apache_beam.runners.portability.fn_api_runner",
    "clipsieve.cli",
    "clipsieve.api",
    "clipsieve.clip.model",
    "clipsieve.job.audit",
    "clipsieve.job.compact",
    "clipsieve.job.evaluate",
    "clipsieve.job.export",
    "clipsieve.job.filter",
    "clipsieve.job.remove",
    "clipsieve.job.run",
    "clipsieve.job.status",
    "clipsieve.pipelines.engine",
    "clipsieve.pipelines.stage",
    "clipsieve.pipelines.worker",
    "clipsieve.sql.connect",
    "duckdb",
    "open_clip",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "torch",
)


def main() -> None:
    """Serve requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for module in MODULES:
        __import__(module)
    import torch

    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    print(json.dumps({"ready": os.getpid()}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), file=answers, flush=True)


def serve(request: dict[str, Any]) -> dict[str, Any]:
    """Run one command in a child; how it ended."""
    pipes = os.pipe(), os.pipe()
    started = time.monotonic()
    child = os.fork()
    if not child:
        try:
            become(request, pipes[0][1], pipes[1][1])
            code = run(request)
        except BaseException:  # the harness's own fault, not the command's
            import traceback

            os.write(2, b"HARNESS " + traceback.format_exc().encode(errors="replace"))
            code = 99
        os._exit(code)
    for _, write_end in pipes:
        os.close(write_end)
    status, usage, texts, timed_out = watch(
        child, (pipes[0][0], pipes[1][0]), started + request["timeout"], request.get("signals", [])
    )
    orphans = end_orphans(request.get("patience", 0.0))
    for read_end, _ in pipes:
        os.close(read_end)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "out": base64.b64encode(texts[0]).decode(),
        "err": base64.b64encode(texts[1]).decode(),
        "seconds": round(time.monotonic() - started, 3),
        "peak": usage.ru_maxrss * 1024,
        "timed_out": timed_out,
        "orphans": orphans,
    }


def become(request: dict[str, Any], out: int, err: int) -> None:
    """Turn the forked child into the process that is asked for."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python does when it starts
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (out, 1), (err, 2)):
        os.dup2(source, target)
    os.closerange(3, 256)
    os.environ.update(request.get("env", {}))
    os.environ["FAULT_DRIVER"] = str(os.getpid())
    os.chdir(request["cwd"])
    encoding = request.get("encoding", "utf-8")
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    sys.stdout = TextIOWrapper(open(1, "wb", closefd=False), encoding, "strict")
    sys.stderr = TextIOWrapper(
        open(2, "wb", closefd=False), encoding, "backslashreplace", line_buffering=True
    )
    for name, value in request.get("limits", {}).items():
        number = getattr(resource, f"RLIMIT_{name}")
        if name == "AS":  # beyond what is mapped: the imports map some gigabytes
            with open("/proc/self/statm", encoding="ascii") as file:
                value += int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(number, (value, value))
    if request.get("user"):
        os.setgroups([])
        os.setgid(request["user"])
        os.setuid(request["user"])
    if request.get("shim"):
        os.environ.update({f"SHIM_{key.upper()}": str(v) for key, v in request["shim"].items()})
        ctypes.CDLL(os.environ["LD_PRELOAD"]).shim_reload()
    if request.get("fault"):
        os.environ["FAULT"] = json.dumps(request["fault"])
        hook.install(request["fault"])


def run(request: dict[str, Any]) -> int:
    """Run the command line as the interpreter would; the exit code."""
    import traceback

    from clipsieve.cli import main as command

    try:
        try:
            command([os.fsdecode(base64.b64decode(word)) for word in request["argv"]])
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except KeyboardInterrupt:
            traceback.print_exc()
            code = 130
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        code = 1
    return code & 255


def watch(
    child: int, ends: tuple[int, int], until: float, signals: list[list[Any]]
) -> tuple[int, Any, tuple[bytes, bytes], bool]:
    """Collect what the child writes until it ends, send signals at their times, end it if late."""
    started = time.monotonic()
    pending = sorted((started + after, number) for after, number in signals)
    texts: dict[int, bytearray] = {end: bytearray() for end in ends}
    timed_out = False
    with selectors.DefaultSelector() as selector:
        for end in ends:
            os.set_blocking(end, False)
            selector.register(end, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select(0.02) if selector.get_map() else ():
                try:
                    data = os.read(key.fd, 1 << 16)
                except BlockingIOError:
                    continue
                texts[key.fd] += data
                if not data:
                    selector.unregister(key.fd)
            if not selector.get_map():
                time.sleep(0.002)
            pid, status, usage = os.wait4(child, os.WNOHANG)
            if pid:
                break
            while pending and time.monotonic() > pending[0][0]:
                os.kill(child, pending.pop(0)[1])
            if not timed_out and time.monotonic() > until:
                timed_out = True
                os.kill(child, signal.SIGKILL)
    for end in ends:
        try:
            while data := os.read(end, 1 << 16):
                texts[end] += data
        except BlockingIOError:
            pass
    return status, usage, (bytes(texts[ends[0]]), bytes(texts[ends[1]])), timed_out


def end_orphans(patience: float) -> int:
    """Wait for descendants of a child that has ended, kill those left; how many those were."""
    until = time.monotonic() + patience
    killed = 0
    while True:
        reap()
        children = own_children()
        if not children:
            return killed
        if time.monotonic() > until:
            killed += len(children)
            for pid in children:
                os.kill(pid, signal.SIGKILL)
            until = time.monotonic() + 5
        time.sleep(0.02)


def reap() -> None:
    """Collect children that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def own_children() -> list[int]:
    """Return processes whose parent is this one."""
    pids = []
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        pids = [int(word) for word in file.read().split()]
    return pids


if __name__ == "__main__":
    main()
