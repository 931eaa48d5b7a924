"""Measures of a folder's dataset, by group: one pass over its stored embeddings."""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from clipsieve.clip.class_lists import class_prompt_set
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
from clipsieve.evaluation.selective import aurc
from clipsieve.scorers.base import PairBatch, PromptSet
from clipsieve.scoring.learn import Basis
from clipsieve.scoring.prompts import load_prototypes
from clipsieve.stage import Element, Report, Worker
from clipsieve.store.canonical import canonical_json
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import Manifest
from clipsieve.store.members import ShardRange
from clipsieve.store.pairs import StoredPairs, split_batch

#: Groups that a table of measures may have.
MOST_GROUPS = 10_000
#: Group by shard, and the name of the one group of all rows.
BY_SHARD, ALL = "shard", "all"
#: Rows of N x K logits at once: a few megabytes for a thousand classes.
_ROWS = 1024
#: Scorers whose classes are taken first, if the folder has several lists.
_FIRST = ("ood.msp", "ood.max_logit", "ood.mcm")


@dataclass(frozen=True, slots=True)
class GroupState:
    """Rows of one group; adding two merges them.

    Attributes:
      mano: of rows with an image embedding.
      missing: rows without one.
      calibration: of rows with a label that is a class.
      unlabelled: rows with an embedding and no label.
      unknown: rows with a label that is no class.
      example: the first of such labels, in the order of text.
      confidence: arrays of float64, of rows with a label that is a class.
      correct: arrays of bool, likewise.
    """

    mano: MaNoState
    missing: int
    calibration: CalibrationState
    unlabelled: int = 0
    unknown: int = 0
    example: str | None = None
    confidence: tuple[np.ndarray, ...] = ()
    correct: tuple[np.ndarray, ...] = ()

    def __add__(self, other: "GroupState") -> "GroupState":
        """Return the state of the rows of both."""
        examples = [text for text in (self.example, other.example) if text is not None]
        return GroupState(
            self.mano + other.mano,
            self.missing + other.missing,
            self.calibration + other.calibration,
            self.unlabelled + other.unlabelled,
            self.unknown + other.unknown,
            min(examples, default=None),
            self.confidence + other.confidence,
            self.correct + other.correct,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the measures of the group; None where they have no rows."""
        mano = self.mano.result()
        values: dict[str, Any] = {
            "rows": self.mano.rows,
            "missing_rows": self.missing,
            "mano": None,
            "mano_branch": None,
            "mano_softmax": None,
            "mano_taylor": None,
            "mano_criterion": None,
            "mano_divergence": None,
        }
        if mano is not None:
            named = {f"mano_{name}": value for name, value in asdict(mano).items()}
            values |= {"mano": named.pop("mano_value"), **named}
        labelled = self.calibration.labelled
        area = None
        if labelled:
            area = aurc(np.concatenate(self.confidence), np.concatenate(self.correct))
        return values | {
            "labelled_rows": labelled,
            "unlabelled_rows": self.unlabelled,
            "unknown_labels": self.unknown,
            "unknown_example": self.example,
            "accuracy": self.calibration.accuracy(),
            "ece": self.calibration.error(),
            "aurc": area,
        }


@dataclass(frozen=True, slots=True)
class GroupStates:
    """States by group; adding two merges the rows of both.

    Attributes:
      states: by name of the group; None is that of rows without one.
      is_full: whether there are more than `MOST_GROUPS`; there are no states then.
    """

    states: Mapping[str | None, GroupState] = field(default_factory=dict)
    is_full: bool = False

    def __add__(self, other: "GroupStates") -> "GroupStates":
        """Return the states of the rows of both."""
        if self.is_full or other.is_full:
            return GroupStates(is_full=True)
        merged = dict(self.states)
        for name, state in other.states.items():
            merged[name] = merged[name] + state if name in merged else state
        if len(merged) > MOST_GROUPS:
            return GroupStates(is_full=True)
        return GroupStates(merged)


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
      prompts: the classes.
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
    prompts: PromptSet
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
        self._prototypes = load_prototypes(self._folder, stage.basis.embeddings, [stage.prompts])
        self._labels = Labels(stage.prompts.names)

    def work(self, elements: Sequence[str]) -> Iterator[Report]:
        stage = self._stage
        pairs = StoredPairs(self._folder, stage.basis.embeddings, stage.basis.model.dim)
        read = [name for name in (stage.labels, stage.by) if name not in (None, BY_SHARD)]
        columns = [name for name in dict.fromkeys(read) if name is not None]
        if stage.labels == BY_SHARD:
            columns = [*columns, BY_SHARD]
        for shard in elements:
            if stage.control.stopped:
                return
            stage.control.begin(shard)
            with stage.control.timing("read"):
                batch = pairs.read(shard, frozenset(), columns)
            with stage.control.timing("encode"):
                states = GroupStates()
                for part in split_batch(replace(batch, prototypes=self._prototypes), _ROWS):
                    states = states + self._observe(part)
            stage.control.end(shard)
            yield Report((shard,), value=states)

    def _observe(self, batch: PairBatch) -> GroupStates:
        stage = self._stage
        assert batch.image is not None
        valid = batch.image.valid
        cosines = batch.image_cosines(stage.prompts)[valid]
        terms = logit_terms(stage.basis.logit_scale * cosines)
        labels = batch.columns[stage.labels] if stage.labels else [None] * len(batch)
        groups = group_names(batch, stage.by)
        distinct = {name: number for number, name in enumerate(dict.fromkeys(groups))}
        numbers = np.array([distinct[name] for name in groups], np.int64)
        return GroupStates(
            {
                name: self._state(valid, terms, labels, numbers == number)
                for name, number in distinct.items()
            }
        )

    def _state(
        self, valid: np.ndarray, terms: LogitTerms, labels: Sequence[Any], members: np.ndarray
    ) -> GroupState:
        stage = self._stage
        rows = np.flatnonzero(members & valid)
        at = members[valid]
        own = LogitTerms(
            terms.criterion[at],
            terms.softmax[at],
            terms.taylor[at],
            terms.confidence[at],
            terms.predicted[at],
        )
        values = [labels[row] for row in rows]
        classes = np.array([self._labels.class_of(value) for value in values], np.int64)
        labelled = classes >= 0
        unknown = [str(v) for v, c in zip(values, classes, strict=True) if c == Labels.UNKNOWN]
        confidence = own.confidence[labelled]
        correct = own.predicted[labelled] == classes[labelled]
        return GroupState(
            mano=MaNoState.from_terms(own, len(stage.prompts.names)),
            missing=int((members & ~valid).sum()),
            calibration=CalibrationState.from_rows(confidence, correct, stage.bins),
            unlabelled=int((classes == Labels.NONE).sum()),
            unknown=len(unknown),
            example=min(unknown, default=None),
            confidence=(confidence,) if len(confidence) else (),
            correct=(correct,) if len(correct) else (),
        )


class Labels:
    """Classes by what a column of labels says."""

    NONE, UNKNOWN = -1, -2

    def __init__(self, names: Sequence[str]) -> None:
        """Take the names of K classes; of two equal ones the first counts."""
        self._count = len(names)
        self._numbers = {name: at for at, name in reversed(list(enumerate(names)))}

    def class_of(self, label: Any) -> int:
        """Return the class that a label names: a name, or an integer from 0 to K - 1.

        Returns:
          Position of the class; `NONE` for None or NaN, `UNKNOWN` for anything else.
        """
        if label is None or (isinstance(label, float) and math.isnan(label)):
            return self.NONE
        if isinstance(label, str):
            return self._numbers.get(label, self.UNKNOWN)
        if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < self._count:
            return label
        return self.UNKNOWN


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


def folder_prompt_set(manifest: Manifest, place: str) -> PromptSet:
    """Return the classes of a folder's ood scores.

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
    name = next((name for name in (*_FIRST, *scorers) if name in scorers))
    family: Mapping[str, Any] = getattr(manifest.families["ood"], "options", {})
    options = {**family, **scorers[name].options}
    return class_prompt_set(options.get("classes", "imagenet"), options.get("templates", "simple"))


def metrics_parameters(stage: MetricsStage) -> dict[str, Any]:
    """Return what decides the measures of a stage, beside the rows, as JSON."""
    return {
        "classes": len(stage.prompts.names),
        "prompts": stage.prompts.key,
        "logit_scale": stage.basis.logit_scale,
        "mano_power": POWER,
        "mano_threshold": THRESHOLD,
        "labels": stage.labels,
        "ece_bins": stage.bins if stage.labels else None,
        "group_by": stage.by or ALL,
    }
