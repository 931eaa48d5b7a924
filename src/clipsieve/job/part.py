"""A part of a run, for arrays of jobs that write to one output folder at once.

Part i of n embeds every n-th shard of the input, beginning with the i-th.  What needs all shards
(scores from storage, the wide table) is left to the part that ends last, or to a later run without
a part.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from clipsieve.errors import Locked, UsageError
from clipsieve.job.embed_phase import begin, check_ledger, embed, run_result, save_run
from clipsieve.job.plan import Plan, make_plan, plan_line
from clipsieve.job.reporter import Reporter
from clipsieve.job.room import check_room
from clipsieve.job.run_result import RunResult
from clipsieve.job.signals import start_control, stopping_on_signals
from clipsieve.settings import RunConfig
from clipsieve.stage import Engine
from clipsieve.store import names
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import Manifest
from clipsieve.store.part_locks import momentary_writer, part_files, part_name, part_writer
from clipsieve.store.records import ShardRecord, new_run_id

#: What a part leaves in its folder when its shards are done: a hash of the input.
_DONE = "done"
#: For how long the last parts to end wait for each other.
_FINISH_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class PartOutcome:
    """How a part ended.

    Attributes:
      result: of its shards.
      is_last: whether all parts have ended, so that what needs all shards can be computed.
    """

    result: RunResult
    is_last: bool


def run_part(
    config: RunConfig,
    engine: Engine,
    reporter: Reporter,
    on_stop: Callable[[str], None] | None = None,
) -> PartOutcome:
    """Embed the shards of one part; others may write to the folder at the same time.

    Args:
      config: settings, with a part.
      engine: runs the stage, on this machine.
      reporter: where progress goes.
      on_stop: told of a signal.

    Raises:
      UsageError: as `run`, and for an engine on other machines, which deals out shards itself.
      Locked: if the part is at work already, or a run of everything.
    """
    if not engine.is_local:
        raise UsageError(
            f"part={config.part} is for arrays of jobs on machines of their own, and runner="
            f"{config.runner!r} deals the shards out itself; leave one of the two out"
        )
    started = time.time()
    part = config.part_of()
    assert part is not None
    number, count = part
    name = part_name(number, count)
    # Of its own for each part, since footers and records have it.
    run_id = f"{config.run_id}.{name}" if config.run_id is not None else new_run_id()
    config = dataclasses.replace(config, run_id=run_id)
    folder = OutputFolder.open(config.out)
    control = start_control(config, folder, started, on_stop)
    reporter.run_id = control.run_id
    terms = config.lock_terms()

    def look() -> tuple[Manifest | None, Plan]:
        manifest = folder.load_manifest()
        return manifest, make_plan(config, folder, manifest, engine, reporter, control)

    before, plan = look()  # refuses what cannot be done before anything is written
    with stopping_on_signals(control), part_writer(folder.files, name, terms, control.stop):
        own = part_files(folder.files, name)
        own.delete(_DONE)
        room = check_room(folder, plan)
        with momentary_writer(folder.files, terms):
            if folder.load_manifest() != before:  # another part has written it meanwhile
                with reporter.muted():
                    before, plan = look()
            begin(folder, before, plan)
        text = f"part {config.part}: {plan_line(plan)}"
        reporter.report("plan", text, planned=len(plan.inputs.items), todo=len(plan.todo))
        if room:
            reporter.report("room", room)
        encode_started = time.time()
        records: Mapping[str, ShardRecord] = {}
        if plan.todo:
            with reporter.watching(control.snapshot, plan.total_rows):
                records = embed(folder, plan, engine)
        times = (started, time.time() - encode_started)
        check_ledger(folder, plan, records)
        result = run_result(plan, records, times, True, control)
        save_run(folder, plan, result, started, control)
        if not result.left:
            with own.writing(_DONE) as path:
                path.write_text(plan.digest, encoding="utf-8")
    return PartOutcome(result, not result.left and _have_ended(folder, count, plan.digest))


def finish_parts(run_whole: Callable[[], RunResult]) -> RunResult | None:
    """Run what needs all shards, and return its result; None if another part does it.

    Two parts that end last may stand in each other's way for a moment.
    """
    end = time.monotonic() + _FINISH_SECONDS
    while True:
        try:
            return run_whole()
        except Locked:
            if time.monotonic() > end:
                return None
            time.sleep(0.2)


def _have_ended(folder: OutputFolder, count: int, digest: str) -> bool:
    """Whether all parts have done their shards of this input."""
    for number in range(1, count + 1):
        try:
            done = folder.files.read(f"{names.PARTS}/{part_name(number, count)}/{_DONE}")
        except FileNotFoundError:
            return False
        if done.decode("utf-8", "replace") != digest:
            return False
    return True
