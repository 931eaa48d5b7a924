"""Measures of a folder's dataset, by group: one pass over its stored embeddings."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clipsieve.control import Control
from clipsieve.errors import UsageError
from clipsieve.evaluation.dataset import (
    POWER,
    THRESHOLD,
    CalibrationState,
    LogitTerms,
    MaNoState,
    logit_terms,
)
from clipsieve.evaluation.groups import GroupState, GroupStates
from clipsieve.scorers.base import PairBatch
from clipsieve.scorers.ood.zero_shot import MaxSoftmax
from clipsieve.scorers.registry import make_scorer, own_options
from clipsieve.scoring.learn import Basis
from clipsieve.scoring.prompts import load_prototypes
from clipsieve.stage import Element, Report, Worker
from clipsieve.statistics.labels import Labels
from clipsieve.store.canonical import canonical_json
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import Manifest
from clipsieve.store.members import ShardRange
from clipsieve.store.pairs import StoredPairs, split_batch
from clipsieve.threads import map_parts

#: Group by shard, and the name of the one group of all rows.
BY_SHARD, ALL = "shard", "all"
#: Rows of N x K logits at once: a few megabytes for a thousand classes.
_ROWS = 1024
#: Scorers whose classes are taken first, if the folder has several lists.
_FIRST = ("ood.msp", "ood.max_logit", "ood.mcm")


@dataclass(frozen=True, slots=True)
class MetricsStage:
    """One pass over a folder for its measures; an element is a shard.

    The report's value after it is a list of measures by group, as `GroupState.to_json` gives them;
    or "full" for too many groups.  It is None if a shard was left out.

    Attributes:
      out: the output folder, absolute.
      run_id: the run.
      device: not used: products are made on the CPU.
      control: stop and progress.
      basis: model and embeddings.
      classes: options of the scorer `ood.msp`, which say what images are compared with.
      shards: how many there are.
      bins: of the calibration error.
      labels: column of the source with a class name or the position of a class; None for none.
      by: column of the source, or `shard`; None is one group of all rows.
    """

    out: str
    run_id: str
    device: str
    control: Control
    basis: Basis
    classes: Mapping[str, Any]
    shards: int
    bins: int
    labels: str | None = None
    by: str | None = None
    name = "metrics"

    def elements(self, members: Sequence[ShardRange]) -> list[Element]:
        """Return an element for each shard."""
        return [Element(member.shard, member.shard, max(member.rows, 1)) for member in members]

    def open(self) -> Worker:
        """Read the prototypes."""
        return _MetricsWorker(self)

    def finish(self, total: Report) -> Report:
        """Turn sums into measures."""
        if len(set(total.done)) != self.shards:
            return replace(total, value=None)
        states = total.value or GroupStates()
        if states.is_full:
            return replace(total, value="full")
        # NULL comes last.
        named = sorted(states.states.items(), key=lambda item: (item[0] is None, item[0] or ""))
        return replace(total, value=[{"group": n, **state.to_json()} for n, state in named])


class _MetricsWorker:
    def __init__(self, stage: MetricsStage) -> None:
        self._stage = stage
        self._folder = OutputFolder.open(stage.out)
        self._scorer = class_scorer(stage.classes)
        self._names = self._scorer.prompt_set.names
        self._prototypes = load_prototypes(
            self._folder, stage.basis.embeddings, self._scorer.prompts()
        )
        self._labels = Labels(self._names)

    def work(self, elements: Sequence[str]) -> Iterator[Report]:
        stage = self._stage
        pairs = StoredPairs(self._folder, stage.basis.embeddings, stage.basis.model.dim)
        by = None if stage.by == BY_SHARD else stage.by
        columns = [name for name in dict.fromkeys([stage.labels, by]) if name is not None]
        for shard in elements:
            if stage.control.stopped:
                return
            stage.control.begin(shard)
            with stage.control.timing("read"):
                batch = pairs.read(shard, frozenset(), columns)
            with stage.control.timing("encode"):
                states = GroupStates() + self._observe(batch)
            stage.control.end(shard)
            yield Report((shard,), value=states)

    def _terms(self, batch: PairBatch) -> LogitTerms:
        """Return the terms of the rows with an image embedding."""
        scale = self._stage.basis.logit_scale

        def terms(part: PairBatch) -> LogitTerms:
            assert part.image is not None
            similarities = self._scorer.rows(part).similarities()
            return logit_terms(scale * similarities[part.image.valid])

        parts = split_batch(replace(batch, prototypes=self._prototypes), _ROWS)
        return LogitTerms.concatenate(map_parts(terms, parts))

    def _observe(self, batch: PairBatch) -> GroupStates:
        """Return the states of the rows of a shard."""
        assert batch.image is not None
        stage, valid = self._stage, batch.image.valid
        if not len(batch):
            return GroupStates()
        terms, groups = self._terms(batch), group_names(batch, stage.by)
        # Positions of names, and of rows by name in their order.
        distinct = {name: number for number, name in enumerate(dict.fromkeys(groups))}
        numbers = np.array([distinct[name] for name in groups], np.int64)
        ends = np.bincount(numbers, minlength=len(distinct)).cumsum()
        members = np.split(np.argsort(numbers, kind="stable"), ends[:-1])
        term_of_row = valid.cumsum() - 1
        states = {}
        for name, rows in zip(distinct, members, strict=True):
            kept = rows[valid[rows]]
            missing = len(rows) - len(kept)
            states[name] = self._state(batch, terms.take(term_of_row[kept]), kept, missing)
        return GroupStates(states)

    def _state(
        self, batch: PairBatch, terms: LogitTerms, rows: np.ndarray, missing: int
    ) -> GroupState:
        """Return the state of a group: `rows` have an embedding, `missing` others have none."""
        stage = self._stage
        mano = MaNoState.from_terms(terms, len(self._names))
        if stage.labels is None:
            return GroupState(mano, missing, CalibrationState.empty(stage.bins))
        column = batch.columns[stage.labels]
        values = [column[row] for row in rows]
        classes = np.array([self._labels.class_of(value) for value in values], np.int64)
        labelled = classes >= 0
        unknown = [str(v) for v, c in zip(values, classes, strict=True) if c == Labels.UNKNOWN]
        confidence = terms.confidence[labelled]
        correct = terms.predicted[labelled] == classes[labelled]
        return GroupState(
            mano=mano,
            missing=missing,
            calibration=CalibrationState.from_rows(confidence, correct, stage.bins),
            unlabelled=int((classes == Labels.NONE).sum()),
            unknown=len(unknown),
            example=min(unknown, default=None),
            confidence=(confidence,) if len(confidence) else (),
            correct=(correct,) if len(correct) else (),
        )


def group_names(batch: PairBatch, by: str | None) -> list[str | None]:
    """Return the group of each row: values as text, lists and tables as JSON; None for NULL."""
    if by is None or by == BY_SHARD:
        return [ALL if by is None else batch.shard] * len(batch)
    texts: dict[Hashable, str] = {}
    names: list[str | None] = []
    for value in batch.columns[by]:
        if value is None or isinstance(value, str):
            names.append(value)
        elif isinstance(value, Hashable):
            names.append(texts.setdefault((type(value), value), _text(value)))
        else:
            names.append(_text(value))
    return names


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    try:
        return canonical_json(value) if isinstance(value, list | dict) else str(value)
    except (TypeError, ValueError):
        return str(value)


def class_scorer(options: Mapping[str, Any]) -> MaxSoftmax:
    """Return the scorer that says what images are compared with, and how."""
    scorer = make_scorer("ood.msp", options)
    assert isinstance(scorer, MaxSoftmax)
    return scorer


def folder_classes(manifest: Manifest, place: str) -> dict[str, Any]:
    """Return which classes a folder's ood scores are of, as options of `ood.msp`.

    Args:
      manifest: of the folder.
      place: of the folder, for messages.

    Raises:
      UsageError: if it has no such score.
    """
    scorers = {n: e for n, e in manifest.scorers().items() if n.startswith("ood.")}
    if not scorers:
        raise UsageError(
            f"{place} holds no ood scores, whose classes measures of a dataset need; "
            f"compute them: clipsieve score {place} --scorers ood"
        )
    for name in (name for name in (*_FIRST, *scorers) if name in scorers):
        own = {**manifest.families["ood"].options, **scorers[name].options}
        classes = own_options("ood.msp", {"ood": own})
        prompts = class_scorer(classes).prompt_set
        encoded = make_scorer(name, own_options(name, manifest.scorer_options())).prompts()
        if prompts in encoded:
            return classes
    raise UsageError(
        f"{place} holds no ood score whose prompts are those of its classes alone; "
        f"compute one: clipsieve score {place} --scorers ood.msp"
    )


def metrics_parameters(stage: MetricsStage) -> dict[str, Any]:
    """Return what decides the measures of a stage, beside the rows, as JSON."""
    return {
        "classes": len(class_scorer(stage.classes).prompt_set.names),
        "prompts": class_scorer(stage.classes).prompt_set.key,
        "logit_scale": stage.basis.logit_scale,
        "mano_power": POWER,
        "mano_threshold": THRESHOLD,
        "labels": stage.labels,
        "ece_bins": stage.bins if stage.labels else None,
        "group_by": stage.by or ALL,
    }
