"""What a run would do, decided before anything is written; and what it refuses to do."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipsieve.clip.identity import ModelIdentity, absolute_names
from clipsieve.control import Control
from clipsieve.embed.commit import ShardWriter, embeddings_entry, states_from_footer
from clipsieve.embed.job import EmbedStage, Limits
from clipsieve.errors import UsageError
from clipsieve.formats.base import InputPlan, WorkItem
from clipsieve.formats.inputs import source_exists
from clipsieve.formats.names import uri_path
from clipsieve.formats.registry import plan_input
from clipsieve.job.asked import (
    asked_scorers,
    check_geometry,
    declared_geometry,
    with_enough_classes,
)
from clipsieve.job.inputs import absolute_pattern, read_options
from clipsieve.job.option_files import (
    OOD,
    default_classes,
    read_option_files,
    without_replaced,
)
from clipsieve.job.probe import ProbeStage, probe
from clipsieve.job.reporter import Reporter
from clipsieve.schemas import footers
from clipsieve.scorers.base import Input
from clipsieve.scorers.registry import (
    EMBEDDED,
    is_family_only,
    make_scorers,
    option_names,
    scorer_factory,
)
from clipsieve.settings import RunConfig, merged_options
from clipsieve.stage import Engine
from clipsieve.store import names
from clipsieve.store.canonical import short_hash
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import InputEntry, Manifest
from clipsieve.store.name_limits import check_shard_names
from clipsieve.store.parquet import Footer
from clipsieve.store.records import DONE, new_run_id, read_records
from clipsieve.store.source import fingerprint_text

#: Sources that a probe looks at.
PROBED_INPUTS = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do.

    Attributes:
      config: settings, with names absolute and the run named.
      inputs: the sources.
      stage: the embed stage; None if only a worker can tell which model it is, see `make_plan`.
      scorers: names of the scorers to be computed from storage after it.
      options: options of all scorers, by name.
      device: where the model computes, as far as it is known.
      todo: items to embed.
      done: rows by state of the items that need nothing, by shard.
      earlier: records, as JSON, that an earlier run left under the same run id.
      digest: of the whole input, for a part of a run, whose `inputs` are its own.
    """

    config: RunConfig
    inputs: InputPlan
    stage: EmbedStage | None
    scorers: tuple[str, ...]
    options: Mapping[str, Mapping[str, Any]]
    device: str
    todo: tuple[WorkItem, ...]
    done: Mapping[str, Mapping[str, int]]
    earlier: frozenset[str]
    digest: str = ""

    @property
    def total_rows(self) -> int | None:
        """Rows to embed; None if some source tells only when it is read."""
        rows = [item.fingerprint.rows for item in self.todo]
        return None if None in rows else sum(r for r in rows if r is not None)


def make_plan(
    config: RunConfig,
    folder: OutputFolder,
    manifest: Manifest | None,
    engine: Engine,
    reporter: Reporter,
    control: Control,
    is_dry: bool = False,
    damaged: frozenset[str] = frozenset(),
) -> Plan:
    """Look at inputs, model and output folder.

    Writes nothing, but that a probe of an engine on other machines tries to.  With `is_dry` there
    is no probe: what only a worker can tell is left open.  Items with a file among `damaged` are
    to be embedded again.

    Raises:
      UsageError: if no input matches, or the folder holds something this run must not touch.
    """
    model, pretrained = absolute_names(config.model, config.pretrained)
    run_id = config.run_id or control.run_id or new_run_id()
    config = dataclasses.replace(
        config, model=model, pretrained=pretrained, out=folder.root, run_id=run_id
    )
    inputs = plan_input(config.inputs, read_options(config))
    reporter.report("input", inputs.description)
    digest = ""
    part = config.part_of()
    if part is not None:
        digest = short_hash([[item.shard, fingerprint_text(item)] for item in inputs.items])
        number, count = part
        inputs = dataclasses.replace(inputs, items=tuple(inputs.items[number - 1 :: count]))
    _check_places(folder, inputs)
    _check_naming(config, manifest)
    scorers, options = _scorers(config, manifest, reporter)
    identity, device = _identity(config, manifest, inputs, engine, reporter, control, is_dry)
    earlier = frozenset(record.to_json() for record in read_records(folder, run_id, damaged))
    if identity is None:
        items = tuple(inputs.items)
        if not config.reprocess:
            _check_names_are_free(folder, items, [None] * len(items))
            _check_model_name(manifest, folder, config)
        return Plan(config, inputs, None, scorers, options, device, items, {}, earlier, digest)
    if not engine.is_local:  # no worker computes on another kind of device, unasked
        config = dataclasses.replace(config, device=_kind(config.device, device))
    stage = embed_stage(config, inputs, identity, control)
    writer = stage.writer()
    if manifest is not None:
        _check_model(manifest, writer, config)
    ledgers: Sequence[Footer | None] = [None] * len(inputs.items)
    if not config.reprocess:
        sound = [damaged.isdisjoint(writer.names(i.shard).values()) for i in inputs.items]
        found = zip(writer.done(inputs.items), sound, strict=True)
        ledgers = [ledger if is_sound else None for ledger, is_sound in found]
        _check_names_are_free(folder, inputs.items, ledgers, damaged)
    pairs = list(zip(inputs.items, ledgers, strict=True))
    done = {item.shard: states_from_footer(f) for item, f in pairs if f is not None}
    todo = tuple(item for item, footer in pairs if footer is None)
    return Plan(config, inputs, stage, scorers, options, device, todo, done, earlier, digest)


def embed_stage(
    config: RunConfig, inputs: InputPlan, identity: ModelIdentity, control: Control
) -> EmbedStage:
    """Return the embed stage of a run."""
    return EmbedStage(
        out=config.out,
        run_id=config.run_id or "",
        device=config.device,
        control=control,
        model=identity,
        source=inputs.source,
        limits=Limits(config.max_image_bytes, config.max_image_side, config.max_image_pixels),
        batch_size=config.batch_size,
        threads=config.threads,
        reprocess=config.reprocess,
        leave_out=config.leave_out,
    )


def plan_line(plan: Plan) -> str:
    """Model, device, and how much there is to do, on one line."""
    config, rows = plan.config, plan.total_rows
    model = f"{config.model} {config.pretrained}" if config.pretrained else config.model
    dtype = plan.stage.model.dtype if plan.stage is not None else config.dtype
    amount = f"{rows:,} rows in " if rows is not None else ""
    line = f"{model}, {dtype} on {plan.device}: {amount}{len(plan.todo)} shards to do"
    return f"{line}, {len(plan.done)} done before" if plan.done else line


def dry_run_report(plan: Plan) -> dict[str, Any]:
    """What a run would do, as plain JSON values; None where only a worker can tell."""
    stage = plan.stage
    return {
        "input": plan.inputs.description,
        "shards": len(plan.inputs.items),
        "todo": [item.shard for item in plan.todo],
        "done": len(plan.done),
        "rows_to_do": plan.total_rows,
        "bytes_to_do": sum(max(item.fingerprint.size, 0) for item in plan.todo),
        "model": stage.model.identity_key() if stage else {"model": plan.config.model},
        "device": plan.device,
        "embeddings_rev": _revision(stage),
        "scorers": [EMBEDDED, *plan.scorers],
    }


def scorer_options(
    manifest: Manifest | None,
    scorers: Sequence[str],
    given: Mapping[str, Mapping[str, Any]],
    model: str,
) -> dict[str, dict[str, Any]]:
    """Return options of scorers by name: those given, else those of the folder.

    Files that options name are read.

    Args:
      manifest: of the folder; None for a new one.
      scorers: names.
      given: options, by name of a scorer or of a family.
      model: by its name; it decides which classes are the default.

    Raises:
      UsageError: for an option of a scorer that is not among `scorers`.
    """
    recorded = {} if manifest is None else manifest.scorer_options()
    families = {name.partition(".")[0] for name in scorers}
    unknown = sorted(set(given) - set(scorers) - {f for f in families if is_family_only(f)})
    if unknown:
        raise UsageError(
            f"options were given for {', '.join(unknown)}, and the scorers are "
            f"{', '.join(sorted(scorers))}; name it with --scorers, or leave its options out"
        )
    options = merged_options(without_replaced(recorded, given), read_option_files(given))
    if OOD in families:
        defaults = {"classes": default_classes(model), **declared_geometry(model)}
        check_geometry(scorers, {OOD: defaults | options.get(OOD, {})})
        taken = {o for s in scorers if s.startswith(OOD) for o in option_names(scorer_factory(s))}
        shared = {k: v for k, v in defaults.items() if k in taken} | options.get(OOD, {})
        options |= {OOD: shared} if shared else {}
    return options


def absolute_folder(folder: str | None) -> str | None:
    """Return the absolute path of an output folder, if one is given."""
    return None if folder is None else OutputFolder.open(folder).root


def require_references(
    scorers: Sequence[str], options: Mapping[str, Mapping[str, Any]], column: str | None
) -> None:
    """Refuse a scorer of reference captions where no column of them is named.

    Raises:
      UsageError: says which.
    """
    for scorer in make_scorers(scorers, options):
        if Input.REFERENCE_EMBEDDINGS in scorer.needs and column is None:
            raise UsageError(
                f"scorer {scorer.name} needs reference captions; run with --references-col, the "
                "column that holds them"
            )


def _scorers(
    config: RunConfig, manifest: Manifest | None, reporter: Reporter
) -> tuple[tuple[str, ...], dict[str, dict[str, Any]]]:
    """Return the scorers to compute from storage, and all options.

    Scorers of the folder are computed for new shards, asked for or not: every shard has every
    family.
    """
    recorded = () if manifest is None else tuple(manifest.scorers())
    asked = asked_scorers(config.scorers, config.model)
    every = tuple(dict.fromkeys([*asked, *recorded]))
    options = scorer_options(manifest, every, config.all_options(), config.model)
    others = tuple(name for name in every if name != EMBEDDED)
    scorers = with_enough_classes(others, config.scorers, options, reporter)
    make_scorers([EMBEDDED, *scorers], options)  # refuses unknown options before any work
    recorded_col = manifest.references_col() if manifest is not None else None
    require_references(scorers, options, config.references_col or recorded_col)
    return scorers, options


def _inputs(manifest: Manifest | None) -> Sequence[InputEntry]:
    return () if manifest is None else manifest.inputs


def _identity(
    config: RunConfig,
    manifest: Manifest | None,
    inputs: InputPlan,
    engine: Engine,
    reporter: Reporter,
    control: Control,
    is_dry: bool,
) -> tuple[ModelIdentity | None, str]:
    """Return the model, and the device, as they are where the work will run.

    On this machine the name, the config and a hash of the weights tell which model it is; only
    the number format `auto` has to be measured, once for a folder.
    """
    recorded = manifest.model if manifest is not None else None
    same = recorded if recorded is not None and _is_same(recorded, config) else None
    dtype = same.dtype if same is not None and config.dtype == "auto" else config.dtype
    if engine.is_local:
        from clipsieve.clip.model import identify

        identity, notes = identify(config.model, config.pretrained, dtype)
        if dtype != "auto" or is_dry:
            for note in notes:
                reporter.report("model", note)
            return (identity if dtype != "auto" else None), _local_device(config.device)
    elif is_dry:
        known = same is not None and dtype == same.dtype
        return (same if known else None), f"{config.device} of a worker"
    report = probe(
        engine,
        ProbeStage(
            out=config.out,
            run_id=config.run_id or "",
            device=config.device,
            control=control,
            model=config.model,
            pretrained=config.pretrained,
            dtype=dtype,
            is_remote=not engine.is_local,
            inputs=tuple(item.uri for item in inputs.items[:PROBED_INPUTS]),
        ),
    )
    for note in report.notes:
        reporter.report("model", note)
    return report.model, report.device


def _kind(asked: str, probed: str) -> str:
    """Return the device for all workers: the kind of the one that was probed, if any would do."""
    return probed.partition(":")[0] if asked == "auto" else asked


def _local_device(device: str) -> str:
    from clipsieve.clip.device import resolve_device

    return str(resolve_device(device).device)


def _revision(stage: EmbedStage | None) -> str | None:
    return None if stage is None else stage.revisions().embeddings


def _is_same(recorded: ModelIdentity, config: RunConfig) -> bool:
    return (recorded.model, recorded.pretrained) == (config.model, config.pretrained)


def _check_model(manifest: Manifest, writer: ShardWriter, config: RunConfig) -> None:
    """Refuse to mix the output of two models in one folder, unless told to replace it."""
    planned, recorded = embeddings_entry(writer.model), manifest.embeddings
    if recorded is None or recorded == planned or config.reprocess:
        return
    assert manifest.model is not None
    raise UsageError(
        f"{writer.folder.root} holds the output of {manifest.model.model} "
        f"{manifest.model.pretrained or ''} in {manifest.model.dtype} (revision "
        f"{recorded.revision}), this run would write {config.model} "
        f"{config.pretrained or ''} in {writer.model.dtype} (revision {planned.revision}); choose "
        "another output folder, or say --reprocess to score everything again with the new one"
    )


def _check_model_name(manifest: Manifest | None, folder: OutputFolder, config: RunConfig) -> None:
    """Refuse another model than the folder's where only a worker can tell more of it."""
    recorded = manifest.model if manifest is not None else None
    if recorded is not None and not _is_same(recorded, config):
        raise UsageError(
            f"{folder.root} holds the output of {recorded.model} {recorded.pretrained or ''}, this "
            f"run would write {config.model} {config.pretrained or ''}; choose another output "
            "folder, or say --reprocess to score everything again with the new one"
        )


def _check_places(folder: OutputFolder, inputs: InputPlan) -> None:
    """Refuse to read the output folder itself, and names that it cannot hold."""
    if folder.files.is_remote:
        inside = [i.uri for i in inputs.items if i.uri.startswith(f"{folder.root}/")]
    else:
        inside = [i.uri for i in inputs.items if Path(uri_path(i.uri)).is_relative_to(folder.root)]
    if inside:
        raise UsageError(
            f"the inputs include {inside[0]}, which lies in the output folder {folder.root}; "
            "choose an output folder that the inputs do not match"
        )
    check_shard_names(folder.root, [item.shard for item in inputs.items])


def input_entry(config: RunConfig) -> InputEntry:
    """Return what the manifest keeps of the inputs, enough to plan them again from anywhere."""
    options = dataclasses.asdict(read_options(config))
    del options["byte_budget"]
    options["leave_out"] = list(options["leave_out"])
    return InputEntry(tuple(absolute_pattern(pattern) for pattern in config.inputs), options)


def _check_naming(config: RunConfig, manifest: Manifest | None) -> None:
    """Refuse options under which the same input rows could get a second output name."""
    entry = input_entry(config)
    for recorded in _inputs(manifest):
        same = recorded.patterns == entry.patterns
        for name in ("rows_per_item", "shard_prefix") if same else ("rows_per_item",):
            if recorded.options[name] != entry.options[name]:
                raise UsageError(
                    f"{name} is {entry.options[name]!r}, this output folder was made with "
                    f"{recorded.options[name]!r}: the same rows would be written twice under other "
                    "names; give the old value, or choose another output folder"
                )


def _check_names_are_free(
    folder: OutputFolder,
    items: Sequence[WorkItem],
    ledgers: Sequence[Footer | None],
    damaged: frozenset[str] = frozenset(),
) -> None:
    """Refuse to take another source of the same name for one, or to overwrite its ledger.

    A source that has moved, and is otherwise as it was, may keep its output.  In the place of a
    damaged ledger the last record of the shard is asked.
    """
    written = folder.read_footers(names.samples(item.shard) for item in items)
    lost = {item.shard for item in items if names.samples(item.shard) in damaged}
    recorded = _recorded_sources(folder, lost, damaged)
    for item, footer, ledger in zip(items, written, ledgers, strict=True):
        uri = footer.get(footers.SOURCE_URI)
        if item.shard in lost:
            uri = recorded.get(item.shard)
            if uri is None:
                raise UsageError(
                    f"{folder.files.url(names.samples(item.shard))} is damaged, and no record "
                    f"says which source it is of; say --reprocess if it is {item.uri}"
                )
        if uri is None or uri == item.uri or (ledger is not None and not source_exists(uri)):
            continue
        raise UsageError(
            f"{item.uri} would be written as shard {item.shard!r}, which is the output of {uri}; "
            "say --shard-prefix to name it apart, or --reprocess if the source has moved"
        )


def _recorded_sources(
    folder: OutputFolder, shards: Collection[str], damaged: Collection[str]
) -> dict[str, str]:
    """Return the source of each shard as its last record in a sound file says."""
    if not shards:
        return {}
    records = (each for each in read_records(folder, damaged=damaged) if each.shard in shards)
    return {record.shard: record.uri for record in records if record.state == DONE}
