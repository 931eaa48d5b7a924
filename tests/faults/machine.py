"""Run `clipsieve` commands in children of a fork server, with a fault in them or none."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
#: Bytes that a terminal takes for a command: C0 but tab and line feed, DEL; C1 and bidirectional
#: overrides and isolates in UTF-8.
_CONTROL = re.compile(
    rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xaa-\xae]|\xe2\x81[\xa6-\xa9]"
)
#: How Python begins the report of an exception that nobody caught.
_TRACEBACK = re.compile(rb"Traceback \(most recent call last\)")


@dataclass(frozen=True)
class Command:
    """What to run, and what goes wrong.

    Attributes:
      argv: words after `clipsieve`; bytes are taken as they are.
      cwd: the current folder.
      fault: for `hook.install`.
      shim: for `shim.c`; keys without `SHIM_`.
      limits: of resources, by the names in `resource` without `RLIMIT_`; `AS` is beyond what the
        process has mapped when it starts.
      user: number of a user to be.
      env: added to the environment.
      encoding: of standard output and error.
      timeout: seconds; a command that takes longer counts as hung and is killed.
      patience: seconds that processes may outlive the command.
      signals: pairs of seconds and the signal sent then.
    """

    argv: Sequence[str | bytes | Path]
    cwd: Path
    fault: Mapping[str, Any] | None = None
    shim: Mapping[str, Any] | None = None
    limits: Mapping[str, int] = field(default_factory=dict)
    user: int = 0
    env: Mapping[str, str] = field(default_factory=dict)
    encoding: str = "utf-8"
    timeout: float = 120.0
    patience: float = 0.0
    signals: Sequence[tuple[float, int]] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the request that the server takes."""
        request = {**vars(self), "cwd": str(self.cwd)}
        request["argv"] = [base64.b64encode(os.fsencode(w)).decode() for w in self.argv]
        return request

    def words(self) -> str:
        """Return the command as a line, for messages."""
        return " ".join(
            ["clipsieve", *(ascii(os.fsdecode(w)).strip("'") for w in self.argv)]
        ).replace("\\\\", "\\")


@dataclass(frozen=True)
class Ended:
    """How a command ended; `code` is negative after a signal."""

    code: int
    out: bytes
    err: bytes
    seconds: float
    peak: int
    timed_out: bool
    orphans: int

    @property
    def text(self) -> str:
        """Standard output and error, safe to print."""
        return printable(self.out + self.err)

    @property
    def last_line(self) -> str:
        """The last line of standard error, safe to print."""
        lines = printable(self.err).strip().splitlines()
        return lines[-1] if lines else ""

    @property
    def has_traceback(self) -> bool:
        """Whether a Python traceback was printed."""
        return bool(_TRACEBACK.search(self.out + self.err))

    @property
    def control_bytes(self) -> list[bytes]:
        """Bytes in either output that a terminal would obey."""
        return _CONTROL.findall(self.out + self.err)

    def problems(self, allowed: Sequence[int]) -> list[str]:
        """What is wrong with any ending: hung, crashed, a traceback, an exit code not `allowed`."""
        if self.timed_out:
            return [f"hung for {self.seconds:.0f} s"]
        if b"HARNESS " in self.err:
            return [f"harness: {self.last_line}"]
        wrong = []
        if self.has_traceback:
            wrong.append(f"traceback: {self.last_line[:200]}")
        if self.code not in allowed:
            wrong.append(f"exit code {self.code}: {self.last_line[:200]}")
        return wrong


def printable(data: bytes) -> str:
    r"""Return bytes as text without anything that a terminal obeys.

    >>> printable(b"a\x1b[0m")
    'a\\x1b[0m'
    """
    return "".join(
        c if c.isprintable() or c == "\n" else ascii(c)[1:-1]
        for c in data.decode("utf-8", "backslashreplace")
    )


class Machine:
    """A fork server, and the folder with what its children need."""

    def __init__(self, folder: Path) -> None:
        """Start the server; `folder` is given to it for its own files."""
        folder.mkdir(parents=True, exist_ok=True)
        hooks = folder / "hook"
        hooks.mkdir(exist_ok=True)
        shutil.copy(HERE / "hook.py", hooks / "sitecustomize.py")
        source = f"{hooks}{os.pathsep}{ROOT / 'src'}"
        env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("FAULT", "SHIM", "COV_"))},
            "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
            "OMP_NUM_THREADS": "1",
            "CLIPSIEVE_CACHE": str(folder / "cache"),
        }
        self.shim = compile_shim(folder)
        if self.shim is not None:
            env["LD_PRELOAD"] = str(self.shim)
        self._child_env = {"PYTHONPATH": source}
        self._errors = open(folder / "server.log", "wb")
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=folder,
            start_new_session=True,  # Ctrl-C is for the harness, which ends the case in hand
            env=env,
        )
        self._answer()

    def run(self, command: Command) -> Ended:
        """Run a command to its end."""
        request = command.to_json()
        request["env"] = {**self._child_env, **command.env}
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self._server.stdin.flush()
        answer = self._answer()
        texts = {key: base64.b64decode(answer[key]) for key in ("out", "err")}
        return Ended(**{**answer, **texts})

    def close(self) -> None:
        """End the server."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()
        self._errors.close()

    def _answer(self) -> dict[str, Any]:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        if not line:
            log = Path(self._errors.name).read_text(errors="replace")
            raise RuntimeError(f"the fork server ended with {self._server.wait()}: {log[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def compile_shim(folder: Path) -> Path | None:
    """Compile `shim.c`; None where there is no C compiler or no Linux."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        return None
    target = folder / "shim.so"
    words = [compiler, "-shared", "-fPIC", "-O1", "-o", str(target), str(HERE / "shim.c"), "-ldl"]
    done = subprocess.run(words, capture_output=True, check=False)
    return target if done.returncode == 0 else None
