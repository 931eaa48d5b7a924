"""Make one named operation of a process go wrong: an audit hook, told what to do by a value.

A process that has `FAULT` in its environment and this file as `sitecustomize.py` on its path
installs the hook when it starts; worker processes inherit both.  The file imports nothing of ours,
so that its text alone can be copied to such a folder.

A point is an event and a name below a root, with what is made up anew in every run replaced:
`os.rename samples/00002.parquet`, its n-th occurrence in one process.  The hook runs before the
operation does.
"""

import errno
import json
import os
import re
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

#: Events whose first or second argument is a path that is about to change, or to be opened.
_PATH_AT = {
    "open": 0,
    "os.rename": 1,
    "os.link": 1,
    "os.symlink": 1,
    "os.remove": 0,
    "os.mkdir": 0,
    "os.rmdir": 0,
    "os.truncate": 0,
    "os.chmod": 0,
    "os.utime": 0,
    "shutil.rmtree": 0,
    "os.scandir": 0,
    "os.listdir": 0,
}
#: Position of `dir_fd` among the arguments: the name is relative to it.
_DIR_FD_AT = {"os.remove": 1, "os.mkdir": 2, "os.rmdir": 1, "os.rename": 3}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_MADE_UP = (
    (re.compile(r"\.tmp-[0-9a-f]{32}"), ".tmp-*"),
    (re.compile(r"\d{8}T\d{6}Z-[0-9a-f]+"), "RUN"),
    (re.compile(r"[0-9a-f]{32}"), "HEX"),
    (re.compile(r"part-(\d+)-[0-9a-f]+"), r"part-\1"),
)


def normal(name: str) -> str:
    """Replace what is made up anew in every run.

    >>> normal("samples/00000.parquet.tmp-0123456789abcdef0123456789abcdef")
    'samples/00000.parquet.tmp-*'
    """
    for pattern, word in _MADE_UP:
        name = pattern.sub(word, name)
    return name


def install(fault: dict[str, Any]) -> None:
    """Add the hook to this process.

    Args:
      fault: `root`: folder below which operations count.  `log`: file to which every point is
        appended.  `event`, `name`, `at`: the point, and which occurrence of it.  `action`: see
        `_act`.  `once`: a file whose creation marks that the fault has happened, so that it
        happens in one process only.
    """
    root = os.path.realpath(fault["root"]) + "/"
    log = -1
    if fault.get("log"):
        log = os.open(fault["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    occurrences: Counter[str] = Counter()
    acting = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal acting
        at = _PATH_AT.get(event)
        if at is None or acting:
            return
        path = _path(event, arguments, at)
        if path is None or not (path + "/").startswith(root):
            return
        if event == "open":
            flags = arguments[2] if isinstance(arguments[2], int) else 0
            event = "open:w" if flags & _WRITES else "open:r"
        point = f"{event} {normal(path[len(root) :])}"
        if log >= 0:
            os.write(log, f"{os.getpid()} {point}\n".encode(errors="surrogateescape"))
        if "action" not in fault or point != f"{fault['event']} {fault['name']}":
            return
        if fault["action"] == "stop" and "FAULT_DRIVER" in os.environ:
            if os.environ["FAULT_DRIVER"] == str(os.getpid()):
                return  # only workers have somebody who looks after them
        occurrences[point] += 1
        late = occurrences[point] - 1 - fault["at"]
        if late == 0 or (late > 0 and fault.get("always")):
            acting = True
            try:
                if _is_first(fault):
                    _act(fault, path)
            finally:
                acting = False

    sys.addaudithook(hook)


def _path(event: str, arguments: tuple[Any, ...], at: int) -> str | None:
    """Return the absolute path of an event; None if it has none."""
    try:
        text = os.fsdecode(arguments[at])
    except (TypeError, IndexError):
        return None
    folder = _DIR_FD_AT.get(event)
    if folder is not None and len(arguments) > folder and isinstance(arguments[folder], int):
        if arguments[folder] >= 0 and not os.path.isabs(text):
            return os.path.join(os.readlink(f"/proc/self/fd/{arguments[folder]}"), text)
    try:
        return os.path.abspath(text)
    except FileNotFoundError:  # the current folder is gone
        return None


def _is_first(fault: dict[str, Any]) -> bool:
    """Return whether no process has done the fault yet; marks it as done."""
    once = fault.get("once")
    if not once:
        return True
    try:
        os.close(os.open(once, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError:
        return bool(fault.get("always"))
    return True


def _act(fault: dict[str, Any], path: str) -> None:
    """Do what `fault["action"]` says, or raise the error it names (such as ENOSPC)."""
    driver = int(os.environ.get("FAULT_DRIVER", os.getpid()))
    root = os.path.realpath(fault["root"])
    target = os.path.join(root, fault.get("target", ""))
    actions: dict[str, Callable[[], Any]] = {
        "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "kill-all": lambda: os.killpg(driver, signal.SIGKILL),
        "term": lambda: os.kill(driver, signal.SIGTERM),
        "int": lambda: os.killpg(driver, signal.SIGINT),
        "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
        "rename-root": lambda: os.rename(target, target + "-renamed"),
        "remove-root": lambda: shutil.rmtree(target),
    }
    action = fault["action"]
    if action in actions:
        actions[action]()
        if action in ("kill", "kill-all"):
            time.sleep(60)  # the signal may take a moment to arrive
        return
    number = getattr(errno, action)
    raise OSError(number, os.strerror(number), path)


if "FAULT" in os.environ:
    install(json.loads(os.environ["FAULT"]))
