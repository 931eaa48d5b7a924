"""The whole job: plan, embed and score what is not done yet, compact, and say how it went."""

import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipsieve import versions
from clipsieve.clip.model import ClipModel, ModelIdentity, absolute_names
from clipsieve.config import RunConfig
from clipsieve.embed.commit import Committer, embeddings_revision, family_revision
from clipsieve.embed.job import EmbedJob, open_model
from clipsieve.errors import LedgerError, UsageError
from clipsieve.pipelines.compact import compact
from clipsieve.pipelines.embed import embed_items, group_items
from clipsieve.pipelines.runners import require_runner
from clipsieve.pipelines.score import score_stored, stored_job
from clipsieve.pipelines.signals import EXIT_OF_STOP, stopping_on_signals
from clipsieve.pipelines.workers import embed_with_workers
from clipsieve.progress import METER, STOP
from clipsieve.read.items import WorkItem
from clipsieve.read.plan import InputPlan, ReadOptions, plan_input
from clipsieve.read.storage import source_exists
from clipsieve.schemas import footers
from clipsieve.schemas.states import RowState
from clipsieve.scorers.registry import scorers_named
from clipsieve.show import Teller, clock
from clipsieve.sql.views import write_sql
from clipsieve.statistics.counts import RowCounts
from clipsieve.store import dataset as datasets
from clipsieve.store.atomic import sweep
from clipsieve.store.dataset import Dataset
from clipsieve.store.layout import Layout
from clipsieve.store.lock import exclusive
from clipsieve.store.parquet import read_footer
from clipsieve.store.runs import FAILED, ShardRecord, new_run_id, read_records, write_manifest

EXIT_FAILED_SHARDS = 3


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended.

    Attributes:
      run_id: name of the run, also of its manifest in `_runs/`.
      out: the output folder.
      planned: shards found; skipped: of those, done before; done: written by this run.
      failed: records of shards that could not be read.
      left: shards not begun, because the run was stopped.
      counts: rows by state of all shards of this input that are in the ledger now.
      new_counts: likewise, of the shards this run wrote.
      stopped: the signal or deadline that stopped it before all was done, or None.
      seconds: from start to end; encode_seconds: of that, in the embed stage.
      exit_code: 0, 3 with failed or left shards, 143 or 130 after a signal.
    """

    run_id: str
    out: str
    planned: int
    skipped: int
    done: int
    failed: tuple[ShardRecord, ...]
    left: int
    counts: RowCounts
    new_counts: RowCounts
    stopped: str | None
    seconds: float
    encode_seconds: float
    exit_code: int

    def to_json(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        return {
            **dataclasses.asdict(self),
            "failed": [{"shard": r.shard, "uri": r.uri, "error": r.error} for r in self.failed],
            "counts": dict(self.counts.states),
            "new_counts": dict(self.new_counts.states),
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do.

    Attributes:
      config: settings, everything automatic decided.
      inputs: what was found.
      model: loaded.
      job: for the workers.
      stored: scorers to be computed from storage after the embed stage.
      todo: items to embed.
      done: rows by state of the items that need nothing, by shard.
      earlier: records, as JSON, that an earlier run left under the same run id.
    """

    config: RunConfig
    inputs: InputPlan
    model: ClipModel
    job: EmbedJob
    stored: tuple[str, ...]
    todo: tuple[WorkItem, ...]
    done: dict[str, dict[str, int]]
    earlier: frozenset[str]

    @property
    def total_rows(self) -> int | None:
        """Rows to embed; None if some source tells only when it is read."""
        rows = [item.fingerprint.rows for item in self.todo]
        return None if None in rows else sum(r for r in rows if r is not None)


def make_plan(config: RunConfig, layout: Layout, dataset: Dataset | None, teller: Teller) -> Plan:
    """Look at inputs, model and output folder; writes nothing.

    Raises:
      UsageError: if no input matches, or the folder holds something this run must not touch.
    """
    require_runner(config.runner)
    model_name, weights = absolute_names(config.model, config.pretrained)
    config = dataclasses.replace(config, model=model_name, pretrained=weights)
    inputs = plan_input(config.inputs, read_options(config))
    teller.tell("input", inputs.description)
    _check_places(layout, inputs)
    _check_naming(config, dataset)
    dtype = config.dtype
    if dtype == "auto" and dataset is not None and _same_model(dataset, config):
        dtype = dataset.model["dtype"]  # chosen once for a folder, so that its scores agree
    model = open_model(config.model, config.pretrained, config.device, dtype)
    for note in model.notes:
        teller.tell("model", note)
    config = dataclasses.replace(
        config,
        dtype=model.identity.dtype,
        out=str(layout.root),
        run_id=config.run_id or new_run_id(),
    )
    embedded, stored = split_scorers(config, model.identity, dataset)
    config = dataclasses.replace(config, scorers=embedded)
    job = EmbedJob(config, inputs.source, model.identity)
    committer = job.committer(str(model.device))
    if dataset is not None:
        _check_model(dataset, committer, config)
    done: dict[str, dict[str, int]] = {}
    todo: list[WorkItem] = []
    for item in inputs.items:
        footer = None if config.reprocess else committer.footer_done(item)
        if not config.reprocess:
            _check_name_is_free(layout, item, done=footer is not None)
        if footer is None:
            todo.append(item)
        else:
            done[item.shard] = json.loads(footer[footers.STATES])
    earlier = frozenset(record.to_json() for record in read_records(layout, config.run_id))
    return Plan(config, inputs, model, job, stored, tuple(todo), done, earlier)


def split_scorers(
    config: RunConfig, identity: ModelIdentity, dataset: Dataset | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Scorers that the embed stage computes, and those computed from storage afterwards.

    A family has one revision in a folder, and every shard has every family.  So a family that the
    folder holds is computed for new shards the way it was for old ones, asked for or not; and a
    family that is new to a folder with shards is computed from storage, for all of them.
    """
    held = dataset.families if dataset is not None else {}
    names = list(dict.fromkeys([*config.scorers, *held]))
    embeddings = embeddings_revision(identity.meaning())
    fresh = dataset is None or dataset.embeddings.get("rev") != embeddings
    full = [
        scorer.family
        for scorer in scorers_named(names)
        if fresh or held.get(scorer.family) == family_revision(scorer, embeddings, "full")
    ]
    return tuple(full), tuple(name for name in names if name not in full)


def run(config: RunConfig, teller: Teller | None = None, wide: bool = True) -> RunResult:
    """Do the whole job for `config`; what is done already is not done again.

    Args:
      config: settings.
      teller: where progress goes; None is standard error, quiet if it is not a terminal.
      wide: whether to compact at the end, so that the `scores` view shows the new rows.

    Raises:
      UsageError: nothing matched, nothing could be scored, or the folder holds something else.
      Locked: another run is writing there.
      LedgerError: rows went missing on the way.
    """
    started = time.time()
    teller = teller or Teller(config.log_format)
    layout = Layout.at(config.out)
    METER.reset()
    STOP.reset()
    if config.deadline is not None:
        STOP.deadline = started + config.deadline
    with stopping_on_signals(), exclusive(layout):
        sweep(layout.root)
        dataset = datasets.load(layout)
        plan = make_plan(config, layout, dataset, teller)
        teller.run_id = plan.config.run_id
        dataset = _begin(layout, dataset, plan)
        teller.tell("plan", _plan_line(plan), planned=len(plan.inputs.items), todo=len(plan.todo))
        encode_started = time.time()
        if plan.todo:
            with teller.watching(METER.snapshot, plan.total_rows):
                _embed(plan)
        encode_seconds = time.time() - encode_started
        records = _records_of(layout, plan)
        if wide and not STOP and _has_ledger(layout):
            dataset = compact(layout, _score_stored(layout, dataset, plan))
        finished = not STOP or not wide
        result = _result(plan, records, started, encode_seconds, finished)
        _write_manifest(layout, plan, result, started)
        write_sql(layout, dataset)
    _tell_result(teller, result)
    _refuse_empty(result)
    return result


def dry_run(config: RunConfig) -> dict[str, Any]:
    """What `run` would do, as plain JSON values; writes nothing."""
    layout = Layout.at(config.out)
    plan = make_plan(config, layout, datasets.load(layout), Teller(config.log_format))
    committer = plan.job.committer(str(plan.model.device))
    return {
        "input": plan.inputs.description,
        "shards": len(plan.inputs.items),
        "todo": [item.shard for item in plan.todo],
        "done": len(plan.done),
        "rows_to_do": plan.total_rows,
        "bytes_to_do": sum(max(item.fingerprint.size, 0) for item in plan.todo),
        "model": dict(plan.model.identity.meaning()),
        "device": str(plan.model.device),
        "embeddings_rev": committer.revisions.embeddings,
        "families": dict(committer.revisions.families),
        "from_storage": list(plan.stored),
    }


def read_options(config: RunConfig) -> ReadOptions:
    """The part of the settings that decides how shards are read and named."""
    return ReadOptions(
        input_format=config.input_format,
        image_col=config.image_col,
        caption_col=config.caption_col,
        uid_col=config.uid_col,
        references_col=config.references_col,
        byte_budget=config.byte_budget,
        rows_per_item=config.rows_per_item,
        shard_prefix=config.shard_prefix,
    )


def input_entry(config: RunConfig) -> dict[str, Any]:
    """What `dataset.json` keeps of the inputs, enough to plan them again from anywhere."""
    options = dataclasses.asdict(read_options(config))
    del options["byte_budget"]
    return {"patterns": [_absolute(p) for p in config.inputs], "options": options}


def _embed(plan: Plan) -> None:
    """Embed what is to do, here or in worker processes."""
    if plan.config.workers > 1:  # also for one shard: it may be one that kills its process
        embed_with_workers(plan.job, plan.todo)
        return
    counted = embed_items(plan.job, group_items(plan.todo, plan.config.runner))
    layout = Layout.at(plan.config.out)
    written = sum((_counts(r) for r in _records_of(layout, plan).values()), RowCounts())
    if counted.rows != written.rows:
        raise LedgerError(
            f"runner {plan.config.runner} counted {counted.rows} rows and the shard records say "
            f"{written.rows}; it lost or doubled elements: use another runner"
        )


def _score_stored(layout: Layout, dataset: Dataset, plan: Plan) -> Dataset:
    """Bring the families that come from storage up to date; the dataset that names them."""
    if not plan.stored:
        return dataset
    run_id = plan.config.run_id or ""
    job = stored_job(layout, dataset, plan.stored, plan.config.device, run_id)
    score_stored(job)
    return dataclasses.replace(dataset, families={**dataset.families, **job.revisions()})


def _begin(layout: Layout, dataset: Dataset | None, plan: Plan) -> Dataset:
    """Record what this folder is about to hold, before the first row is written."""
    committer = plan.job.committer(str(plan.model.device))
    identity = plan.model.identity
    before = dataset or Dataset()
    now = dataclasses.replace(
        before.with_input(input_entry(plan.config)),
        model={name: getattr(identity, name) for name in identity.__slots__},
        embeddings={"model": identity.slug, "rev": committer.revisions.embeddings},
        families={**before.families, **committer.revisions.families},
    )
    if now != before:
        datasets.save(layout, now)
    return now


def _records_of(layout: Layout, plan: Plan) -> dict[str, ShardRecord]:
    """The last record of each shard of this run; not of an earlier one under the same id."""
    assert plan.config.run_id is not None
    todo = {item.shard for item in plan.todo}
    records = read_records(layout, plan.config.run_id)
    new = (record for record in records if record.to_json() not in plan.earlier)
    return {record.shard: record for record in new if record.shard in todo}


def _result(
    plan: Plan,
    records: dict[str, ShardRecord],
    started: float,
    encode_seconds: float,
    finished: bool,
) -> RunResult:
    """How the run ended; `finished` says that nothing after the embed stage was left out."""
    failed = tuple(r for r in records.values() if r.state == FAILED)
    done = [r for r in records.values() if r.state != FAILED]
    new = sum((_counts(record) for record in done), RowCounts())
    old = sum((RowCounts(states, 1) for states in plan.done.values()), RowCounts())
    left = len(plan.todo) - len(records)
    exit_code = EXIT_FAILED_SHARDS if len(failed) > plan.config.max_failed_shards else 0
    if left:
        if not STOP:
            raise LedgerError(f"{left} shards have no record though nothing stopped the run")
        finished = False
    if not finished:
        exit_code = EXIT_OF_STOP[STOP.reason or ""]
    return RunResult(
        run_id=plan.config.run_id or "",
        out=plan.config.out,
        planned=len(plan.inputs.items),
        skipped=len(plan.done),
        done=len(done),
        failed=failed,
        left=left,
        counts=old + new,
        new_counts=new,
        stopped=None if finished else STOP.reason,
        seconds=round(time.time() - started, 3),
        encode_seconds=round(encode_seconds, 3),
        exit_code=exit_code,
    )


def _counts(record: ShardRecord) -> RowCounts:
    return RowCounts(dict(record.states), shards=1)


def _write_manifest(layout: Layout, plan: Plan, result: RunResult, started: float) -> None:
    status = "stopped" if result.stopped else "failed" if result.exit_code else "ok"
    now = METER.snapshot()
    write_manifest(
        layout,
        result.run_id,
        {
            "status": status,
            "started_at": started,
            "ended_at": time.time(),
            "argv": sys.argv,
            "process": os.getpid(),
            "config": plan.config.to_json(),
            "versions": versions.installed(),
            "model": dict(plan.model.identity.meaning()),
            "stage_seconds": {stage: round(s, 3) for stage, s in now.seconds.items()},
            "result": result.to_json(),
        },
    )


def _plan_line(plan: Plan) -> str:
    identity, rows = plan.model.identity, plan.total_rows
    model = f"{identity.model} {identity.pretrained}" if identity.pretrained else identity.model
    amount = f"{rows:,} rows in " if rows is not None else ""
    line = (
        f"{model}, {identity.dtype} on {plan.model.device}: {amount}{len(plan.todo)} shards to do"
    )
    return f"{line}, {len(plan.done)} done before" if plan.done else line


def _tell_result(teller: Teller, result: RunResult) -> None:
    """The closing summary."""
    lines = []
    if result.new_counts.rows:
        rate = result.new_counts.rows / max(result.encode_seconds, 1e-9)
        lines.append(
            f"{result.new_counts.rows:,} rows in {clock(result.encode_seconds)} "
            f"({rate:,.0f} rows/s)"
        )
    if result.skipped:
        lines.append(f"{result.skipped} of {result.planned} shards were done before")
    width = max((len(state) for state in result.counts.states), default=0)
    for state, rows in sorted(result.counts.states.items(), key=lambda pair: -pair[1]):
        lines.append(f"  {state:<{width}}  {rows:>10,}  {rows / result.counts.rows:6.1%}")
    lines += [f"failed: {record.error}" for record in result.failed]
    if result.stopped:
        lines.append(f"stopped by {result.stopped}; {result.left} shards left: run it again")
    else:
        query = "SELECT status, count(*), avg(clip_score) FROM scores GROUP BY status"
        lines.append(f'next: clipsieve sql {result.out} "{query}"')
    teller.tell("result", "\n".join(lines), **result.to_json())


def _refuse_empty(result: RunResult) -> None:
    """A run that ends well without one scored row is a mistake, not a success."""
    if result.exit_code == 0 and not result.counts.states.get(RowState.OK):
        raise UsageError(
            f"none of {result.counts.rows} rows could be scored: {dict(result.counts.states)}; "
            "look at `SELECT status, error, count(*) FROM samples GROUP BY ALL`, and check "
            "--image-col and --caption-col"
        )


def _same_model(dataset: Dataset, config: RunConfig) -> bool:
    model = dataset.model
    return (model.get("model"), model.get("pretrained")) == (config.model, config.pretrained)


def _check_model(dataset: Dataset, committer: Committer, config: RunConfig) -> None:
    """Refuse to mix the output of two models in one folder, unless told to replace it."""
    wanted = {"model": committer.slug, "rev": committer.revisions.embeddings}
    if not dataset.embeddings or dataset.embeddings == wanted or config.reprocess:
        return
    held = dataset.model
    raise UsageError(
        f"{committer.layout.root} holds the output of {held.get('model')} "
        f"{held.get('pretrained') or ''} in {held.get('dtype')} (revision "
        f"{dataset.embeddings['rev']}), this run would write {config.model} "
        f"{config.pretrained or ''} in {config.dtype} (revision {wanted['rev']}); choose another "
        "output folder, or say --reprocess to score everything again with the new one"
    )


def _check_places(layout: Layout, inputs: InputPlan) -> None:
    """Refuse to read the output folder itself."""
    inside = [item.uri for item in inputs.items if Path(item.uri).is_relative_to(layout.root)]
    if inside:
        raise UsageError(
            f"the inputs include {inside[0]}, which lies in the output folder {layout.root}; "
            "choose an output folder that the inputs do not match"
        )


def _check_naming(config: RunConfig, dataset: Dataset | None) -> None:
    """Refuse options under which the same input rows could get a second output name."""
    entry = input_entry(config)
    for held in dataset.inputs if dataset is not None else ():
        same = list(held["patterns"]) == entry["patterns"]
        for name in ("rows_per_item", "shard_prefix") if same else ("rows_per_item",):
            if held["options"][name] != entry["options"][name]:
                raise UsageError(
                    f"{name} is {entry['options'][name]!r}, this output folder was made with "
                    f"{held['options'][name]!r}: the same rows would be written twice under other "
                    "names; give the old value, or choose another output folder"
                )


def _check_name_is_free(layout: Layout, item: WorkItem, done: bool) -> None:
    """Refuse to take another source of the same name for this one, or to overwrite its ledger.

    A source that has moved, and is otherwise as it was, may keep its output.
    """
    held = read_footer(layout.samples(item.shard)).get(footers.SOURCE_URI)
    if held is None or held == item.uri or (done and not source_exists(held)):
        return
    raise UsageError(
        f"{item.uri} would be written as shard {item.shard!r}, which is the output of {held}; "
        "say --shard-prefix to name it apart, or --reprocess if the source has moved"
    )


def _has_ledger(layout: Layout) -> bool:
    return next((layout.root / "samples").glob("*.parquet"), None) is not None


def _absolute(pattern: str) -> str:
    """A pattern that means the same from any directory."""
    return pattern if "://" in pattern else os.path.abspath(os.path.expanduser(pattern))


def plan_inputs_again(dataset: Dataset) -> Sequence[WorkItem]:
    """The items of everything that was ever read into a folder, as its inputs are now.

    Inputs that match nothing any more have no items; what they left in the ledger is found there.
    """
    items: dict[tuple[str, str], WorkItem] = {}
    for entry in dataset.inputs:
        try:
            plan = plan_input(entry["patterns"], ReadOptions(**entry["options"]))
        except UsageError:
            continue
        items |= {(item.shard, item.uri): item for item in plan.items}
    return list(items.values())
