"""What docs/clusters.md tells to type: every command and option in it is one that there is."""

import importlib.util
import json
import re
import runpy
import shlex
import subprocess
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import duckdb
import pytest
import yaml  # type: ignore[import-untyped]
from apache_beam.options.pipeline_options import PipelineOptions

from clipsieve.cli import BEAM_COMMANDS, cli
from clipsieve.errors import UsageError
from clipsieve.pipelines.engines.choose import make_backend
from clipsieve.runner_names import LOCAL_RUNNER, beam_runner

dask_runner = pytest.importorskip("apache_beam.runners.dask.dask_runner")
dask_scheduler = pytest.importorskip("distributed.cli.dask_scheduler")
dask_worker = pytest.importorskip("distributed.cli.dask_worker")

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "clusters.md"
#: Options of programs that are not Python's, and whether a value is a word of its own.
DOCKER_RUN = {
    "--init": False,
    "--gpus": True,
    "--volume": True,
    "--env": True,
    "--network": True,
}
DOCKER_BUILD = {"--tag": True, "--target": True}
SRUN = {"--ntasks": True, "--gpus-per-task": True}
#: Of dask-cuda's worker, which is not installed here.
DASK_CUDA = {"--nthreads", "--memory-limit"}
#: What entry points of containers take.
CONTAINERS = {
    "clipsieve-beam": {"-worker_pool"},
    "beam_spark3_job_server": {"--spark-master-url"},
}


@dataclass(frozen=True)
class Block:
    """Text between two fences.

    Attributes:
      language: the word behind the first fence.
      line: number of that line.
      text: without the fences and the indent of a list.
    """

    language: str
    line: int
    text: str


def read_blocks(page):
    blocks = []
    for found in re.finditer(r"(?ms)^( *)```(\w*)\n(.*?)^\1```$", page):
        line = page[: found.start()].count("\n") + 1
        text = re.sub(rf"(?m)^{found[1]}", "", found[3])
        blocks.append(Block(found[2], line, text))
    return blocks


TEXT = PAGE.read_text()
BLOCKS = read_blocks(TEXT)


def of(language):
    blocks = [block for block in BLOCKS if block.language == language]
    assert blocks, language
    return pytest.mark.parametrize("block", blocks, ids=lambda block: f"line{block.line}")


def read_commands(text):
    """Return the words of each command, without variables, keywords and what comes behind a `&`."""
    commands = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line)
        while words and (words[0] in ("until", "do") or re.match(r"[A-Z_]+=", words[0])):
            words.pop(0)
        if words and words[-1] == "&":
            words.pop()
        words = [word.removesuffix(";") for word in words if word != ";"]
        if words and words[0] != "[":
            commands.append(words)
    return commands


COMMANDS = [
    words for block in BLOCKS if block.language == "sh" for words in read_commands(block.text)
]


# One check for each program


def check(words):
    """Raise unless the command can be typed like this."""
    program, *rest = words
    name = program.rpartition("/")[2]
    if name not in CHECKS:
        raise AssertionError(f"no check for {name}")
    CHECKS[name](rest)


def check_clipsieve(words):
    name, *rest = words
    at = rest.index("--") if "--" in rest else len(rest)
    own, beam = rest[:at], rest[at + 1 :]
    context = cli.commands[name].make_context(name, own)
    runner = context.params.get("runner") or LOCAL_RUNNER
    if beam:
        assert name in BEAM_COMMANDS
    check_beam(runner, beam)
    if runner not in ("flink", "spark", "dataflow"):  # jars and packages are not here
        make_backend(runner, beam, context.params.get("workers"))


def check_beam(runner, words):
    assert all(re.match(r"--\w+(=|$)", word) for word in words), words
    # It exits at values that an option does not take.
    PipelineOptions(list(words), runner=beam_runner(runner)).get_all_options()
    given = {word[2:].partition("=")[0] for word in words}
    assert given <= beam_words(), f"Beam knows no {sorted(given - beam_words())}"


def beam_words():
    """Options of Beam's classes as they are typed, without hyphens before them."""
    parser: Any = ArgumentParser(conflict_handler="resolve")
    classes = [PipelineOptions]
    while classes:
        kind = classes.pop()
        classes += kind.__subclasses__()
        if "_add_argparse_args" in vars(kind) and kind.__module__.startswith("apache_beam"):
            kind._add_argparse_args(parser)
    return {word[2:] for action in parser._actions for word in action.option_strings}


def check_dask(words):
    if words[:2] == ["cuda", "worker"]:
        assert {word for word in words if word.startswith("--")} <= DASK_CUDA
        return
    name, *rest = words
    {"scheduler": dask_scheduler, "worker": dask_worker}[name].main.make_context(name, rest)


def check_python(words):
    flag, module, *rest = words
    if flag == "-c":
        compile(module, "-c", "exec")
        return
    spec = importlib.util.find_spec(module)
    assert flag == "-m" and spec is not None and spec.origin is not None
    code = Path(spec.origin).read_text()
    for word in rest:
        assert not word.startswith("-") or f"'{word}'" in code, word


def check_docker(words):
    action, *rest = words
    if action == "build":
        rest, targets = without_options(rest, DOCKER_BUILD)
        stages = re.findall(r"(?m)^FROM .* AS (\w+)$", (ROOT / "Dockerfile").read_text())
        assert rest == ["."] and set(targets.get("--target", [])) <= set(stages)
        return
    assert action == "run"
    (image, *inside), _ = without_options(rest, DOCKER_RUN)
    name = image.rpartition("/")[2].partition(":")[0]
    if name == "clipsieve":
        check(inside)
    else:
        assert {word.partition("=")[0] for word in inside} <= CONTAINERS[name]


def check_srun(words):
    check(without_options(words, SRUN)[0])


def without_options(words, known):
    """Return what follows the options, and the values of those."""
    values: dict[str, list[str]] = {}
    words = list(words)
    while words[0].startswith("-"):
        option = words.pop(0)
        values.setdefault(option, []).append(words.pop(0) if known[option] else "")
    return words, values


def check_pip(words):
    assert words[0] == "install"
    for word in words[1:]:
        for extras in re.findall(r"^clipsieve\[(.*)\]$", word):
            assert set(extras.split(",")) <= known_extras()


def known_extras():
    given: dict[str, dict[str, list[str]]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("setuptools.setup", given.update)
        patch.chdir(ROOT)
        runpy.run_path("setup.py")
    return set(given["extras_require"])


def check_make(words):
    targets = re.findall(r"(?m)^([\w-]+):", (ROOT / "Makefile").read_text())
    for word in words:
        name, has_value, value = word.partition("=")
        if has_value:
            assert name == "EXTRAS" and set(value.split(",")) <= known_extras()
        else:
            assert name in targets


def accept(words):
    """Of other programs and words of the shell nothing is known here."""


CHECKS = {
    "clipsieve": check_clipsieve,
    "dask": check_dask,
    "python": check_python,
    "docker": check_docker,
    "srun": check_srun,
    "pip": check_pip,
    "make": check_make,
    **dict.fromkeys(("aws", "wait", "sleep", "done"), accept),
}


# The page


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: "-".join(words[:3]))
def test_a_command_can_be_typed_as_it_stands(words):
    check(words)


def test_every_engine_is_on_the_page():
    runners = {words[words.index("--runner") + 1] for words in COMMANDS if "--runner" in words}
    assert runners == {"dask", "portable", "flink", "spark", "dataflow"}


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("clipsieve run IN OUT --runer dask", click.NoSuchOption),
        ("clipsieve run IN OUT --workers few", click.BadParameter),
        ("clipsieve rum IN OUT", KeyError),
        ("clipsieve run IN OUT --runner dask -- --dask_client_adress=tcp://A:1", AssertionError),
        ("clipsieve run IN OUT --runner flink -- --flink_version=1.2", SystemExit),
        ("clipsieve run IN OUT --runner dataflow -- --sdk_containr_image=I", AssertionError),
        ("clipsieve run IN OUT --runner portable -- --environment_type=EXTERNAL", UsageError),
        ("clipsieve run IN OUT --workers 2 --runner dask -- --dask_client_address=A", UsageError),
        ("dask worker tcp://A:1 --nthread 1", click.NoSuchOption),
        ("python -m apache_beam.runners.worker.worker_pool_main --port 1", AssertionError),
        ("docker build --target bean .", AssertionError),
        ("docker run clipsieve dask worker tcp://A:1 --nthread 1", click.NoSuchOption),
        ("pip install 'clipsieve[desk]'", AssertionError),
        ("make instal", AssertionError),
    ],
)
def test_a_misspelt_command_is_found(line, error):
    (words,) = read_commands(line)
    with pytest.raises(error):
        check(words)


def test_options_in_the_text_exist():
    prose = re.sub(r"(?ms)^ *```.*?^ *```$", "", TEXT)
    named = set(re.findall(r"(?<=[`( ])--([a-z][\w-]*)", prose))
    clipsieve_options = {
        word.lstrip("-")
        for command in cli.commands.values()
        for parameter in command.params
        for word in (*parameter.opts, *parameter.secondary_opts)
    }
    dask_options = {word.lstrip("-") for p in dask_worker.main.params for word in p.opts}
    assert named - clipsieve_options - beam_words() - dask_options == {"user"}  # docker's


@of("sh")
def test_shell_is_well_formed(block):
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@of("yaml")
def test_yaml_is_a_cluster_with_a_worker_pool(block):
    (cluster,) = yaml.safe_load_all(block.text)
    containers = cluster["spec"]["taskManager"]["podTemplate"]["spec"]["containers"]
    assert containers[0]["name"] == "flink-main-container"
    assert set(containers[1]["args"]) == CONTAINERS["clipsieve-beam"]
    (flink,) = [words for words in COMMANDS if "flink" in words]
    (port,) = [port["containerPort"] for port in containers[1]["ports"]]
    assert f"--environment_config=localhost:{port}" in flink
    assert f"--flink_master=http://{cluster['metadata']['name']}-rest:8081" in flink
    version = cluster["spec"]["flinkVersion"].removeprefix("v").replace("_", ".")
    assert f"--flink_version={version}" in flink
    assert any(f"job-server-{_beam_version()}.jar" in word and version in word for word in flink)


def _beam_version():
    found = re.search(r"(?m)^apache-beam==(.+)$", (ROOT / "constraints.txt").read_text())
    assert found is not None
    return found[1]


def test_versions_of_beam_are_the_one_that_is_installed():
    versions = re.findall(r"job[-_]server[-:](\d[\d.]*\d)", TEXT)
    assert set(versions) == {_beam_version()}
    assert f"Beam {_beam_version().rpartition('.')[0]}," in TEXT


@of("json")
def test_json_is_well_formed(block):
    json.loads(block.text)


@of("python")
def test_python_is_well_formed(block):
    compile(block.text, str(PAGE), "exec")


@of("sql")
def test_sql_is_well_formed(block):
    assert duckdb.extract_statements(block.text)


def test_links_within_the_documentation_lead_somewhere():
    for file, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", TEXT):
        target = PAGE.parent / file if file else PAGE
        titles = re.findall(r"(?m)^#+ (.+)$", target.read_text())
        anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
        assert not anchor or anchor in anchors, f"{file}#{anchor}"
