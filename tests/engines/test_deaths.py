"""Workers that die, and what they raise, on engines that know nothing of shards."""

import threading
import time
from collections import Counter
from functools import partial
from typing import Any

import psutil
import pytest

from clipsieve.control import Control
from clipsieve.errors import ClipsieveError, EngineError, UsageError, WorkersLost
from clipsieve.job.attempts import attempts_folder
from clipsieve.pipelines.engine import BeamEngine
from clipsieve.stage import Report
from clipsieve.store.folder import OutputFolder
from clipsieve.store.records import FAILED, read_records
from tests.engines import clusters
from tests.engines.clusters import Cluster
from tests.engines.stages import Eventful
from tests.pipelines.jobs import wait_for

NAMES = [f"shard-{at}" for at in range(8)]


def eventful(out: str, **changes: Any) -> Eventful:
    return Eventful(out, "r", Control("r", out), **changes)


def run(cluster: Cluster, stage: Eventful, *texts: str) -> Report:
    with BeamEngine(cluster.runner, cluster.options) as engine:
        return engine.run(stage, stage.elements(*texts))


def deaths(out: str) -> Counter[str]:
    """How often each element has ended its process."""
    files = OutputFolder.open(out).files.list_files("deaths")
    return Counter(name.partition(".")[0] for name in files)


def check_clean(out: str) -> None:
    """No marker is left behind."""
    files = OutputFolder.open(out).files
    assert files.list_files(attempts_folder("r")) == []
    assert [name for name in files.list_files("_runs") if ".tmp-" in name or ".stop" in name] == []


def test_a_shard_that_kills_its_workers_fails_alone(cluster, place):
    out = place("out")
    total = run(cluster, eventful(out), *NAMES[:5], "bad:kill")
    assert (sorted(total.done), total.failed, total.rows.rows) == (NAMES[:5], ("bad",), 15)
    (record,) = (r for r in read_records(OutputFolder.open(out), "r") if r.state == FAILED)
    assert (record.shard, record.uri) == ("bad", "source/bad:kill")
    assert "source/bad:kill: the worker died on this shard (" in str(record.error)
    assert "also when it was alone" in str(record.error)
    assert deaths(out)["bad"] in (2, 3)  # once among others, or not, and twice alone
    check_clean(out)


def test_a_shard_on_which_a_worker_died_once_is_done_by_another(dask, place):
    total = run(dask, eventful(place("out")), *NAMES[:3], "odd:once")
    assert (sorted(total.done), total.failed) == (sorted([*NAMES[:3], "odd"]), ())
    check_clean(place("out"))


def test_dask_gives_a_task_up_that_died_four_times_and_its_work_goes_on(dask, place):
    out = place("out")
    bad = [f"bad-{at}:kill" for at in range(2)]
    stage = eventful(out)
    with BeamEngine(dask.runner, (*dask.options, "--dask_npartitions=1")) as engine:
        total = engine.run(stage, stage.elements(*NAMES[:2], *bad))
    assert sorted(total.failed) == ["bad-0", "bad-1"] and sorted(total.done) == NAMES[:2]
    assert sum(deaths(out).values()) in range(4, 7)
    check_clean(out)


def test_what_a_worker_raises_on_purpose_comes_out_as_itself_naming_the_worker(cluster, place):
    with pytest.raises(UsageError, match=r"^worker \S+:\d+: b is of no use; use another$"):
        run(cluster, eventful(place("out")), "a", "b:UsageError")
    check_clean(place("out"))


def test_an_error_is_raised_once_the_other_workers_are_idle(dask, place):
    out = place("out")
    with pytest.raises(UsageError):
        run(dask, eventful(out), "bad:UsageError", *(f"{name}:slow" for name in NAMES))
    check_clean(out)
    done = OutputFolder.open(out).files.list_files("done")
    time.sleep(1.0)  # two slow shards
    check_clean(out)
    assert OutputFolder.open(out).files.list_files("done") == done


def test_what_a_worker_raises_by_mistake_is_one_line_with_shard_and_worker(cluster, place):
    line = r"^worker \S+:\d+ with shard b in hand: ValueError: no value in b \(raised at .*stages"
    with pytest.raises(ClipsieveError, match=line) as raised:
        run(cluster, eventful(place("out")), "b:ValueError")
    assert type(raised.value) is ClipsieveError and "\n" not in str(raised.value)
    check_clean(place("out"))


@pytest.mark.parametrize("part", ["open", "finish"])
def test_errors_of_opening_and_finishing_name_the_worker_too(cluster, place, part):
    message = {"open": "the weights are not those", "finish": "nothing to finish"}[part]
    with pytest.raises(UsageError, match=rf"^worker \S+:\d+: {message}"):
        run(cluster, eventful(place("out"), **{f"break_{part}": True}), "a")


def test_a_pool_that_is_gone_is_an_error_and_no_endless_loop(cluster, place):
    if cluster.runner != "portable":
        pytest.skip("Dask waits for workers")
    nowhere = (*cluster.options[:2], "--environment_config=localhost:9")
    start = time.monotonic()
    with pytest.raises(WorkersLost, match=r"stage eventful: workers were lost 3 times .*see the l"):
        run(Cluster("portable", nowhere), eventful(place("out")), "a")
    assert time.monotonic() - start < 60


def test_a_scheduler_that_ends_under_a_run_is_told_of_at_once(site, tmp_path, place):
    with clusters.dask(tmp_path, site, workers=1) as lost:
        stage = eventful(place("out"))
        scheduler = process_of(lost.options[0].partition("=")[2])
        folder = OutputFolder.open(stage.out)
        done = partial(folder.files.list_files, "done")

        def end() -> None:
            wait_for(done, "a shard")
            scheduler.kill()

        ending = threading.Thread(target=end)
        ending.start()
        start = time.monotonic()
        with pytest.raises(EngineError, match=r"connection to the Dask scheduler \S+ was lost"):
            run(lost, stage, *(f"{name}:slow" for name in NAMES))
        ending.join()
    assert time.monotonic() - start < 60
    check_clean(stage.out)


def process_of(word: str) -> psutil.Process:
    """The process with this word in its command."""
    found = (p for p in psutil.process_iter() if is_scheduler(p, word))
    return next(found)


def is_scheduler(process: psutil.Process, word: str) -> bool:
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return word in words and "distributed.cli.dask_scheduler" in words


def test_what_one_stage_left_open_is_dropped_for_the_next(dask, place):
    out = place("out")
    stage = eventful(out)
    with BeamEngine(dask.runner, dask.options) as engine:
        for names in (NAMES[:4], NAMES[4:]):
            assert sorted(engine.run(stage, stage.elements(*names)).done) == names
    workers = {n.partition(".")[2] for n in OutputFolder.open(out).files.list_files("done")}
    assert len(workers) <= 2
