"""What the tests of examples/schedule share: the files, and settings for data of the demo."""

import re
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest

from clipsieve.cli import cli

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples" / "schedule"
#: Where the examples have the command.
INSTALLED = "/opt/clipsieve/bin/clipsieve"


def check_command(text: str) -> str:
    """Raise unless a command line can be typed as it stands; return the name of the command."""
    program, name, *words = shlex.split(text.replace("\\\n", " "))
    assert program in ("clipsieve", INSTALLED)
    cli.commands[name].make_context(name, words)
    return name


def write_config(folder: Path, source: Path, out: Path) -> Path:
    """Write the example's settings for small data and the bundled model."""
    text = (EXAMPLES / "clipsieve.toml").read_text()
    values = {"inputs": [f"{source}/*.parquet"], "out": str(out), "model": "tiny"}
    for name, value in values.items():
        shown = str(value).replace("'", '"') if isinstance(value, list) else f'"{value}"'
        text, count = re.subn(rf"(?m)^{name} = .*$", f"{name} = {shown}", text)
        assert count == 1, name
    text = re.sub(r"(?m)^pretrained = .*\n", "", text)
    path = folder / "clipsieve.toml"
    path.write_text('device = "cpu"\nscorers = "clip,density"\nrun_id = "r"\n' + text)
    return path


def write_program(path: Path, text: str) -> Path:
    """Write a shell script that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def write_clipsieve(path: Path) -> Path:
    """Write a program that is this checkout's command line."""
    places = ":".join(str(ROOT / name) for name in ("src", "."))
    python = shlex.quote(sys.executable)
    return write_program(path, f'PYTHONPATH={places} exec {python} -m clipsieve.cli "$@"')


def program(name: str) -> str:
    """Return the path of a program of this environment or of the system; skip without it."""
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found
