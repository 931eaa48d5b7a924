"""Small packages that a test installs for this process and those it starts."""

import os
import sys
from pathlib import Path

import pytest


def install_scorer(site: Path, name: str, code: str, patch: pytest.MonkeyPatch) -> None:
    """Install a module with the class `Plugin`, a scorer, as a package with an entry point."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (site / f"{name}_plugin.py").write_text(code)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[clipsieve.scorers]\n{name} = {name}_plugin:Plugin\n")
    patch.delitem(sys.modules, f"{name}_plugin", raising=False)  # of another test
    patch.syspath_prepend(str(site))
    put_on_path(site, patch)


def put_on_path(site: Path, patch: pytest.MonkeyPatch) -> None:
    """Let processes that are started from here find modules in `site` before all others."""
    path = os.environ.get("PYTHONPATH")
    patch.setenv("PYTHONPATH", os.pathsep.join([str(site), *([path] if path else [])]))
