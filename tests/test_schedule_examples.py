"""examples/schedule and docs/schedule.md: files by the tools that read them, commands by ours."""

import json
import os
import re
import shlex
import subprocess
import tomllib

import pyarrow.parquet as pq
import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from clipsieve.cli import cli
from clipsieve.job.prometheus import RunGauges, write_metrics
from clipsieve.settings import RunConfig, load_toml
from tests.pipelines.jobs import exit_code, tables, write_one
from tests.schedule import (
    EXAMPLES,
    INSTALLED,
    ROOT,
    check_command,
    program,
    write_clipsieve,
    write_config,
    write_program,
)

PAGE = (ROOT / "docs" / "schedule.md").read_text()


def blocks(language):
    found = re.findall(rf"(?ms)^```{language}\n(.*?)^```$", PAGE)
    assert found, language
    return found


def run_tool(*words, **more):
    return subprocess.run([*map(str, words)], capture_output=True, text=True, **more)


def seconds(text):
    number, unit = re.split(r"(?=[a-z])", text, maxsplit=1)
    return int(number) * {"s": 1, "min": 60, "h": 3600}[unit]


# Settings


@pytest.mark.parametrize("text", [(EXAMPLES / "clipsieve.toml").read_text(), None])
def test_settings_are_those_of_a_run(tmp_path, text):
    if text is None:
        config_map, _ = yaml.safe_load_all((EXAMPLES / "cronjob.yaml").read_text())
        text = config_map["data"]["clipsieve.toml"]
    path = tmp_path / "clipsieve.toml"
    path.write_text(text)
    config = RunConfig(**load_toml(path, RunConfig))
    assert config.fail_if and config.max_failed_shards
    assert tomllib.loads(text).keys() <= {name for name in RunConfig.__dataclass_fields__}


# systemd


def unit_values(text):
    values: dict[str, list[str]] = {}
    for name, value in re.findall(r"(?m)^(\w+)=(.*)$", text):
        values.setdefault(name, []).append(value)
    return values


def test_units_are_ones_that_systemd_takes(tmp_path):
    tool = program("systemd-analyze")
    for name in ("clipsieve.service", "clipsieve.timer"):
        text = (EXAMPLES / name).read_text()
        (tmp_path / name).write_text(text.replace(INSTALLED, "/bin/true"))
    done = run_tool(tool, "verify", *tmp_path.iterdir())
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    (tmp_path / "clipsieve.service").write_text("[Service]\nType=onshot\nExecStart=/bin/true\n")
    assert "onshot" in run_tool(tool, "verify", *tmp_path.iterdir()).stderr


def test_a_unit_s_commands_exist_and_its_times_leave_room():
    service = unit_values((EXAMPLES / "clipsieve.service").read_text())
    assert [check_command(line) for line in service["ExecStart"]] == ["run", "filter", "reconcile"]
    words = shlex.split(service["ExecStart"][0])
    deadline = words[words.index("--deadline") + 1]
    assert seconds(deadline) < seconds(service["TimeoutStartSec"][0])
    assert "75" in service["SuccessExitStatus"][0].split()
    for option in ("--metrics-file", "--result-file"):
        folder = os.path.dirname(words[words.index(option) + 1])
        is_state = folder == f"/var/lib/{service['StateDirectory'][0]}"
        assert is_state or folder in service["ReadWritePaths"][0].split()
    settings = tomllib.loads((EXAMPLES / "clipsieve.toml").read_text())
    assert settings["out"] in service["ReadWritePaths"][0].split()
    assert "Persistent=true" in (EXAMPLES / "clipsieve.timer").read_text()


def test_a_unit_hides_no_gpu_and_forbids_no_code_that_is_made():
    names = unit_values((EXAMPLES / "clipsieve.service").read_text()).keys()
    hiding = {"PrivateDevices", "ProtectClock", "DeviceAllow", "DevicePolicy", "RootDirectory"}
    assert not names & {*hiding, "MemoryDenyWriteExecute"}


# Kubernetes


def manifest(name):
    return list(yaml.safe_load_all((EXAMPLES / name).read_text()))[-1]["spec"]


@pytest.mark.parametrize("name", ["cronjob.yaml", "indexed-job.yaml"])
def test_manifests_are_ones_that_kubernetes_takes(tmp_path, name):
    tool = program("kubernetes-validate")
    done = run_tool(tool, "--strict", "--quiet", EXAMPLES / name)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = tmp_path / name
    wrong.write_text((EXAMPLES / name).read_text().replace("backoffLimit", "backofLimit"))
    assert run_tool(tool, "--strict", wrong).returncode != 0


def rules(spec):
    return {
        code: rule["action"]
        for rule in spec["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
        for code in rule["onExitCodes"]["values"]
    }


def test_a_cron_job_tries_again_what_may_be_better_then():
    spec = manifest("cronjob.yaml")
    job = spec["jobTemplate"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert check_command(shlex.join(container["command"])) == "run"
    (deadline,) = [word for word in container["command"] if word.startswith("--deadline=")]
    assert seconds(deadline.partition("=")[2]) < job["activeDeadlineSeconds"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert rules(job) == {2: "FailJob", 3: "FailJob", 4: "FailJob"}


def test_each_index_of_a_job_is_one_part(tmp_path):
    spec = manifest("indexed-job.yaml")
    assert rules(spec) == {2: "FailJob", 3: "FailIndex", 4: "FailIndex"}
    (container,) = spec["template"]["spec"]["containers"]
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    assert variables["PARTS"] == str(spec["completions"]) == str(spec["parallelism"])
    write_program(tmp_path / "clipsieve", 'printf "%s\\n" "$@"')
    shell, *words = container["command"]
    parts = []
    for index in range(spec["completions"]):
        path = f"{tmp_path}:{os.environ['PATH']}"
        environment = {**variables, "JOB_COMPLETION_INDEX": str(index), "PATH": path}
        done = run_tool(shell, *words, env=environment)
        given = done.stdout.split()
        assert check_command(shlex.join(["clipsieve", *given])) == "run"
        parts += [word for word in given if word.startswith("--part=")]
    assert parts == [f"--part={number}/8" for number in range(1, 9)]


# Slurm

SLURM = EXAMPLES / "slurm_array.sh"


class Array:
    """An array of two tasks, with stubs of what Slurm brings; they tell of their calls."""

    def __init__(self, folder):
        self.programs, self.calls = folder / "programs", folder / "calls"
        tell = f'echo "$(basename "$0")" "$@" >> {shlex.quote(str(self.calls))}'
        write_program(self.programs / "srun", f'{tell}\nexec "$@"')
        write_program(self.programs / "scontrol", tell)

    def run(self, task, **more):
        environment = {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "SLURM_ARRAY_JOB_ID": "77",
            "SLURM_ARRAY_TASK_ID": str(task),
            "SLURM_ARRAY_TASK_COUNT": "2",
            **{key: os.environ[key] for key in ("CLIPSIEVE_CACHE", "HOME") if key in os.environ},
            **more,
        }
        return run_tool("bash", SLURM, env=environment)


@pytest.fixture
def array(tmp_path):
    return Array(tmp_path)


def test_shellcheck_finds_nothing():
    done = run_tool(program("shellcheck"), SLURM)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def contents(out):
    """The content of all tables by name, without ids of runs and builds."""
    found = {}
    for name in tables(out):
        key = re.sub(r"build=[0-9a-f]+", "build", name)
        found[key] = pq.read_table(out / name, partitioning=None).replace_schema_metadata()
    return found


def test_the_tasks_of_an_array_end_in_the_tables_of_one_run(array, tmp_path):
    source, whole, out = tmp_path / "source", tmp_path / "whole", tmp_path / "out"
    for seed, name in enumerate("abcd"):
        write_one(source, name, 30, seed)
    assert exit_code(["run", "--config", str(write_config(tmp_path, source, whole))]) == 0
    config = write_config(tmp_path, source, out)
    write_clipsieve(array.programs / "clipsieve")
    for task in (2, 1):
        done = array.run(task, CLIPSIEVE_CONFIG=str(config))
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stderr.splitlines()[-1])["event"] == "result" and done.stdout == ""
    assert contents(out) == contents(whole)
    assert exit_code(["reconcile", str(out)]) == 0
    calls = array.calls.read_text().splitlines()
    assert [words.split()[0] for words in calls] == ["srun", "srun"]
    for words in calls:
        assert check_command(words.removeprefix("srun ")) == "run"


@pytest.mark.parametrize(
    ("code", "restarts", "is_queued_again"),
    [(75, "0", True), (143, "9", True), (143, "10", False), (3, "0", False), (0, "0", False)],
)
def test_a_task_is_queued_again_where_that_helps(array, code, restarts, is_queued_again):
    write_program(array.programs / "clipsieve", f"exit {code}")
    assert array.run(2, SLURM_RESTART_COUNT=restarts).returncode == code
    assert ("scontrol requeue 77_2\n" in array.calls.read_text()) == is_queued_again


# The page


def test_commands_on_the_page_can_be_typed():
    lines = "".join(blocks("sh")).replace("\\\n", " ").splitlines()
    assert [check_command(line) for line in lines if line.startswith("clipsieve ")] == [
        *("run", "filter", "reconcile")
    ]
    for block in blocks("sh"):
        assert run_tool("bash", "-n", input=block).stderr == ""


def test_a_crontab_line_has_five_times_and_a_command():
    (block,) = blocks("cron")
    *times, command = block.strip().split(maxsplit=5)
    for field, (least, most) in zip(
        times, [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)], strict=True
    ):
        assert field == "*" or least <= int(field) <= most
    assert "%" not in command  # would begin a new line
    assert check_command(command.partition(" 2>>")[0]) == "run"


def test_a_workflow_runs_commands_that_exist():
    workflow, _ = map(yaml.safe_load, blocks("yaml"))
    (job,) = workflow["jobs"].values()
    names = [check_command(step["run"]) for step in job["steps"]]
    assert names == [step["name"] for step in job["steps"]] == ["run", "filter", "reconcile"]


def test_alerts_are_on_values_that_there_are(tmp_path):
    _, alerts = map(yaml.safe_load, blocks("yaml"))
    path = tmp_path / "m.prom"
    shards = {"done": 1, "skipped": 1, "failed": 1, "left": 1}
    write_metrics(str(path), RunGauges("run", "out", 0, 1.0, {"ok": 1}, {"ok": 1}, shards, 1.0))
    families = list(text_string_to_metric_families(path.read_text()))
    (group,) = alerts["groups"]
    for rule in group["rules"]:
        named = set(re.findall(r"clipsieve_\w+", rule["expr"]))
        assert named and named <= {family.name for family in families}
        for state in re.findall(r'state="(\w+)"', rule["expr"]):
            assert state in shards
        assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) == {"out"}


def test_options_in_the_text_exist():
    prose = re.sub(r"(?ms)^```.*?^```$", "", PAGE)
    known = {word for c in cli.commands.values() for p in c.params for word in p.opts}
    named = set(re.findall(r"(?<=[`( ])--[a-z][\w-]*", prose))
    assert named - known == {"--strict", "--signal"}  # kubernetes-validate's and Slurm's


def test_every_example_is_on_the_page_and_every_link_leads_somewhere():
    for path in EXAMPLES.iterdir():
        assert path.name in PAGE
    for file, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", PAGE):
        target = ROOT / "docs" / (file or "schedule.md")
        assert target.exists(), file
        if anchor:
            titles = re.findall(r"(?m)^#+ (.+)$", target.read_text())
            assert anchor in {title.lower().replace(" ", "-") for title in titles}
