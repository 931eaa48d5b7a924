"""Run the graph of a stage once, and read the total that it leaves."""

from collections.abc import Sequence

from clipsieve.pipelines.engines.base import Backend, LocalBackend
from clipsieve.pipelines.runners import run_pipeline
from clipsieve.pipelines.stage import build
from clipsieve.runner_names import LOCAL_RUNNER
from clipsieve.stage import Report, Stage
from clipsieve.store import names
from clipsieve.store.file_system import temporary_name
from clipsieve.store.folder import OutputFolder


def run_groups(stage: Stage, groups: Sequence[list[str]], backend: Backend | None = None) -> Report:
    """Run the graph of a stage and return the total that it left; nothing if it left none.

    Args:
      stage: what to do.
      groups: elements' texts; a group is worked on by one worker, in order.
      backend: where; None is this process.
    """
    backend = backend or LocalBackend(LOCAL_RUNNER)
    folder = OutputFolder.open(stage.out)
    report = temporary_name(f"{names.RUNS}/{stage.run_id}.{stage.name}")
    try:
        run_pipeline(lambda root: build(root, stage, groups, report, backend.needs_spread), backend)
        return Report.from_json(folder.read_json(report))
    except FileNotFoundError:
        return Report()
    finally:
        folder.files.delete(report)
