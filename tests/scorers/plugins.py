"""Packages with scorers, put on the path as an installer would."""

import sys

import pytest


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install scorers by name: `install({"toy": "module:Factory"})`; modules from `sources`."""
    site = tmp_path / "site"
    count = 0

    def put(scorers, sources=None):
        nonlocal count
        count += 1
        for module, source in (sources or {}).items():
            site.mkdir(exist_ok=True)
            (site / f"{module}.py").write_text(source)
        info = site / f"plugin_{count}-1.0.dist-info"
        info.mkdir(parents=True)
        name = f"plugin_{count}"
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        entries = [f"{scorer} = {place}" for scorer, place in scorers.items()]
        text = "\n".join(["[clipsieve.scorers]", *entries, ""])
        (info / "entry_points.txt").write_text(text)
        if str(site) not in sys.path:
            monkeypatch.setattr(sys, "path", [*sys.path, str(site)])

    return put
