"""The architecture as a test: who may import whom, and which module owns which library."""

import ast
import os
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {
    "schemas": "clipsieve.schemas",
    "src/clipsieve": "clipsieve",
    "transforms": "clipsieve.transforms",
    "pipelines": "clipsieve.pipelines",
}
RANKS = {
    "clipsieve.schemas": 0,
    "clipsieve": 1,
    "clipsieve.transforms": 2,
    "clipsieve.pipelines": 3,
}
#: The front doors may start a pipeline, but inside a function: Beam takes a second to import.
DOORS = {"clipsieve", "clipsieve.api", "clipsieve.cli", "clipsieve.cli_subsets"}
#: Modules, or packages with all that is in them, that may import a library.
OWNERS = {
    "apache_beam": ("clipsieve.transforms", "clipsieve.pipelines"),
    "open_clip": (
        "clipsieve.clip.model",
        "clipsieve.clip.class_lists",
        "clipsieve.demo.train",
        "clipsieve.demo.evaluate",
    ),
    "duckdb": ("clipsieve.sql",),
    "simplejpeg": ("clipsieve.clip.decode",),
    "PIL": ("clipsieve.clip", "clipsieve.demo"),
    "torchvision": ("clipsieve.clip.preprocess",),
    "sklearn": ("clipsieve.scorers.isolation",),
    "fsspec": ("clipsieve.formats.inputs", "clipsieve.object_stores.address"),
    "braceexpand": ("clipsieve.formats.inputs",),
    "img2dataset": ("clipsieve.ingest",),
    "exifread": ("clipsieve.ingest.picture",),
    "mmh3": ("clipsieve.store.id_values",),
    "prometheus_client": ("clipsieve.job.prometheus",),
    "faiss": (),
}
#: Rooms that build on all others, in this order.
TOP = ("sql", "select", "exports", "job")
#: Rooms of the library, and the rooms above them, which they must not import.
ABOVE = {
    "formats": ("store", "embed", "neighbours", "scorers", "scoring", "audit", *TOP),
    "evaluation": ("embed", "scoring", "audit", *TOP, "formats"),
    "statistics": ("embed", "scoring", "audit", *TOP, "formats"),
    "scorers": ("embed", "scoring", "audit", *TOP, "formats"),
    "clip": ("embed", "neighbours", "scorers", "scoring", "audit", *TOP, "formats"),
    "store": ("embed", "neighbours", "scoring", "audit", *TOP),
    "object_stores": ("embed", "neighbours", "scorers", "scoring", "audit", "clip", *TOP),
    "embed": ("neighbours", "scoring", "audit", *TOP),
    "neighbours": ("embed", "scoring", "audit", *TOP, "formats"),
    "scoring": ("embed", "audit", *TOP),
    "audit": ("embed", "neighbours", "scoring", *TOP, "clip"),
    "sql": ("embed", "neighbours", "scoring", "audit", "select", "exports", "job", "formats"),
    "select": ("embed", "neighbours", "scoring", "audit", "exports", "job"),
    "exports": (
        "embed",
        "neighbours",
        "scorers",
        "scoring",
        "audit",
        "sql",
        "select",
        "job",
        "clip",
    ),
    "job": ("ingest",),
    "ingest": ("embed", "neighbours", "scorers", "scoring", "audit", *TOP[:-1]),
}
#: For type checkers only.
TYPES_ONLY = {("clipsieve.api", "duckdb")}
SHORT_NAMES = ("schemas", "transforms", "pipelines", "src")


def package_of(module: str) -> str:
    return next(
        (name for name in RANKS if name != "clipsieve" and within(module, name)), "clipsieve"
    )


def room_of(module: str) -> str:
    """Room of the library that a module is in; "" outside of it."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and package_of(module) == "clipsieve" else ""


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def imports(tree: ast.Module) -> Iterator[tuple[str, bool, bool]]:
    """Name, whether inside a function, whether for type checkers, of every import."""

    def visit(node: ast.AST, inside: bool, types: bool) -> Iterator[tuple[str, bool, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, inside, types) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from ((f"{base}.{alias.name}", inside, types) for alias in node.names)
        inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            types = True
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside, types)

    yield from visit(tree, False, False)


def violations(module: str, source: str) -> list[str]:
    """What the text of `module` imports against the rules."""
    wrong = []
    for name, inside, types in imports(ast.parse(source)):
        top = name.partition(".")[0]
        if name.startswith(".") or top in SHORT_NAMES:
            wrong.append(f"{module} imports {name}; say clipsieve...")
        elif top == "clipsieve":
            door = module in DOORS and (inside or types)
            if RANKS[package_of(name)] > RANKS[package_of(module)] and not door:
                wrong.append(f"{module} imports {name}, which is above it")
            above = ABOVE.get(room_of(module), ())
            if room_of(name) in above and not types:
                wrong.append(f"{module} imports {name}, a room above its own")
        elif top in OWNERS and not any(within(module, owner) for owner in OWNERS[top]):
            if not (types and (module, top) in TYPES_ONLY):
                wrong.append(f"{module} imports {top}, which is not its to import")
    return wrong


def modules() -> dict[str, str]:
    """Text of every module by its name as imported."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join([package, *parts]).removesuffix(".__init__")
            # Through its link in src/clipsieve a grafted folder would come up twice.
            if package != "clipsieve" or package_of(name) == "clipsieve":
                found[name] = path.read_text(encoding="utf-8")
    return found


def test_every_module_imports_only_what_it_may():
    found = modules()
    assert {"clipsieve.cli", "clipsieve.schemas.tables", "clipsieve.pipelines.engine"} <= set(found)
    assert [line for name, source in found.items() for line in violations(name, source)] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("clipsieve.schemas.tables", "from clipsieve.errors import UsageError"),
        ("clipsieve.store.lock", "import clipsieve.transforms.score"),
        ("clipsieve.store.lock", "from clipsieve import pipelines"),
        ("clipsieve.store.lock", "def f():\n    from clipsieve.pipelines.run import run"),
        ("clipsieve.transforms.score", "from clipsieve.pipelines.run import run"),
        ("clipsieve.cli", "from clipsieve.pipelines.run import run"),
        ("clipsieve.store.lock", "import apache_beam as beam"),
        ("clipsieve.store.lock", "def f():\n    import apache_beam.io"),
        ("clipsieve.transforms.score", "from transforms.embed import Embed"),
        ("clipsieve.pipelines.run", "from schemas import states"),
        ("clipsieve.pipelines.run", "from src.clipsieve import errors"),
        ("clipsieve.store.lock", "from .layout import Layout"),
        ("clipsieve.clip.encode", "import open_clip"),
        ("clipsieve.demo.pairs", "import open_clip"),
        ("clipsieve.cli", "import duckdb"),
        ("clipsieve", "import duckdb"),
        ("clipsieve.formats.webdataset", "from PIL import Image"),
        ("clipsieve.pipelines.run", "import img2dataset"),
        ("clipsieve.store.folder", "from clipsieve.job.run import run"),
        ("clipsieve.scorers.density", "from clipsieve.scoring.learn import learn"),
    ],
)
def test_a_planted_violation_is_found(module, source):
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("clipsieve.cli", "def f():\n    from clipsieve.pipelines.run import run"),
        ("clipsieve.api", "if TYPE_CHECKING:\n    import duckdb"),
        ("clipsieve.store.lock", "from clipsieve.schemas import footers"),
        ("clipsieve.pipelines.run", "from clipsieve.transforms.score import ScoreShards"),
        ("clipsieve.sql.connect", "import duckdb"),
        ("clipsieve.job.run", "from clipsieve.scoring.learn import learn"),
        ("clipsieve.ingest.shard", "import img2dataset"),
    ],
)
def test_what_is_allowed_is_not_reported(module, source):
    assert violations(module, source) == []


def test_links_point_at_the_folders_that_setup_maps(monkeypatch):
    given: dict[str, dict[str, str]] = {}
    monkeypatch.setattr("setuptools.setup", given.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    mapped = {k.removeprefix("clipsieve."): v for k, v in given["package_dir"].items() if k}
    links = {p.name: p for p in (ROOT / "src" / "clipsieve").iterdir() if p.is_symlink()}
    if not links and os.name == "nt":
        pytest.skip("this checkout has no links")
    assert set(links) == set(mapped)
    for name, folder in mapped.items():
        assert links[name].resolve() == (ROOT / folder).resolve()
