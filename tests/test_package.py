"""Beam stages the source distribution to workers: what is not in it is not there."""

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("src/clipsieve", "schemas", "transforms", "pipelines")
#: Left by tools, or the links that only help editors.
BESIDE = ("__pycache__", "egg-info")
LINKS = tuple(f"src/clipsieve/{name}/" for name in ("schemas", "transforms", "pipelines"))


def package_files():
    """Files of the package in the tree, as git keeps them: without caches and links."""
    names = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            name = path.relative_to(ROOT).as_posix()
            if path.is_file() and not name.startswith(LINKS):
                if not any(word in name for word in BESIDE) and path.suffix != ".md":
                    names.append(name)
    return names


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    # From a copy, because building leaves egg-info in the tree.
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for name in (*package_files(), "setup.py", "pyproject.toml", "LICENSE"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", str(out)]
    done = subprocess.run([*command, str(tree)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (archive,) = out.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(out, filter="data")
    folder = out / archive.name.removesuffix(".tar.gz")
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_the_source_distribution_has_every_file_of_the_package(packed):
    wanted = package_files()
    assert "src/clipsieve/demo/tiny/open_clip_model.safetensors" in wanted
    assert "schemas/sql/views.sql" in wanted and "schemas/sql/recipes/funnel.sql" in wanted
    assert [name for name in wanted if name not in packed] == []


def test_files_are_the_same_in_the_source_distribution(packed):
    assert all(packed[name] == (ROOT / name).read_bytes() for name in package_files())
