"""What a run would do, decided before anything is written; and what it refuses to do."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipsieve.clip.model import ClipModel, ModelIdentity, absolute_names
from clipsieve.config import RunConfig, merged_options
from clipsieve.embed.commit import Committer, embeddings_revision, family_revision
from clipsieve.embed.job import EmbedJob, open_model
from clipsieve.errors import UsageError
from clipsieve.formats.base import InputPlan, ReadOptions, WorkItem
from clipsieve.formats.inputs import source_exists
from clipsieve.formats.registry import plan_input
from clipsieve.pipelines.runners import require_runner
from clipsieve.schemas import footers
from clipsieve.scorers.base import Input, is_fitted
from clipsieve.scorers.registry import scorers_named
from clipsieve.show import Teller
from clipsieve.store.dataset import Dataset
from clipsieve.store.layout import Layout
from clipsieve.store.parquet import read_footer
from clipsieve.store.runs import new_run_id, read_records


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
    # Families of the folder are computed for new shards, asked for or not.
    families = dataset.families if dataset is not None else ()
    options = options_for(dataset, [*config.scorers, *families], config.scorer_options)
    config = dataclasses.replace(config, scorer_options=options)
    embedded, stored = split_scorers(config, model.identity, dataset)
    job = EmbedJob(config, inputs.source, model.identity, embedded)
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
    family that is new to a folder with shards is computed from storage, for all of them.  So is
    one that is fitted: it must see every row before it can score the first.
    """
    held = dataset.families if dataset is not None else {}
    names = list(dict.fromkeys([*config.scorers, *held]))
    embeddings = embeddings_revision(identity.meaning())
    fresh = dataset is None or dataset.embeddings.get("rev") != embeddings
    full = [
        scorer.family
        for scorer in scorers_named(names, config.scorer_options)
        if not is_fitted(scorer)
        and Input.REFERENCE_EMBEDDINGS not in scorer.needs  # references are in the ledger
        and (fresh or held.get(scorer.family) == family_revision(scorer, embeddings, "full"))
    ]
    return tuple(full), tuple(name for name in names if name not in full)


def options_for(
    dataset: Dataset | None, scorers: Sequence[str], given: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Options of scorers by name: those given, and where none is given, those of the folder.

    Raises:
      UsageError: for an option of a scorer that is not among `scorers`.
    """
    held = dataset.options if dataset is not None else {}
    known = set(scorers)
    strangers = sorted(set(given) - known)
    if strangers:
        raise UsageError(
            f"options were given for {', '.join(strangers)}, and the scorers are "
            f"{', '.join(sorted(known))}; name it with --scorers, or leave its options out"
        )
    return merged_options(held, given)


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


def plan_line(plan: Plan) -> str:
    """Model, device, and how much there is to do, on one line."""
    identity, rows = plan.model.identity, plan.total_rows
    model = f"{identity.model} {identity.pretrained}" if identity.pretrained else identity.model
    amount = f"{rows:,} rows in " if rows is not None else ""
    line = (
        f"{model}, {identity.dtype} on {plan.model.device}: {amount}{len(plan.todo)} shards to do"
    )
    return f"{line}, {len(plan.done)} done before" if plan.done else line


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


def _absolute(pattern: str) -> str:
    """A pattern that means the same from any directory."""
    return pattern if "://" in pattern else os.path.abspath(os.path.expanduser(pattern))
