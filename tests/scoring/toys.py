"""Toy scorers that count what is asked of them, registered by `install(TOYS)`."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from clipsieve import Input, NeighbourSpec, PromptSet, Scorer, score_column

#: Calls by what was called, e.g. `("score", "toy.plain")`.
CALLS: Counter = Counter()


def column(name, kind=None):
    return score_column(name, f"doc of {name}", "none", "any", "tests", kind)


@dataclass(frozen=True)
class Total:
    """Exact sum of whole numbers, and of rows."""

    total: int = 0
    rows: int = 0

    def __add__(self, other):
        """Add both."""
        return Total(self.total + other.total, self.rows + other.rows)


def grid(batch):
    """First component of each image as a whole number, so that sums are exact in any order."""
    return np.round(batch.image.vectors[batch.image.valid][:, 0] * 1000).astype(np.int64)


@dataclass(frozen=True)
class PowerSum:
    """Sum of `(x - centre) ** power` of the first component."""

    power: int
    centre: int = 0
    needs = frozenset({Input.IMAGE_EMBEDDING})

    def observe(self, batch, context):
        """Sum over a batch."""
        CALLS["observe", self.power, self.centre] += 1
        values = grid(batch) - self.centre
        return Total(int((values**self.power).sum()), len(values))


class Counted(Scorer):
    """Counts its calls."""

    def load(self, known, context):
        """Return what is known, and the context."""
        CALLS["load", self.name] += 1
        return {**known, "context": context}

    def score(self, batch, loaded):
        """Count the rows."""
        CALLS["score", self.name] += 1
        CALLS["rows", self.name] += len(batch)
        return self.values(batch, loaded)

    def values(self, batch, loaded):
        """Return the columns."""
        raise NotImplementedError


class TwoPasses(Counted):
    """Distance of the first component from its mean in standard deviations: mean, then spread."""

    name, family = "toy.two_passes", "toy"
    columns = pa.schema([column("deviations")])

    def statistics(self, known, context):
        """Ask for the sum, then for the squares about the mean."""
        if "mean" not in known:
            return {"sum": PowerSum(1)}
        if "spread" not in known:
            return {"squares": PowerSum(2, int(known["mean"]))}
        return {}

    def learn(self, sums, known, context):
        """Mean, then spread."""
        if "sum" in sums:
            CALLS["learn mean"] += 1
            return {"mean": np.array(round(sums["sum"].total / sums["sum"].rows))}
        CALLS["learn spread"] += 1
        return {**known, "spread": np.sqrt(np.array(sums["squares"].total / sums["squares"].rows))}

    def values(self, batch, loaded):
        """Deviations."""
        values = np.full(len(batch), np.nan)
        values[batch.image.valid] = (grid(batch) - loaded["mean"]) / loaded["spread"]
        return {"deviations": values}


class MeanOnly(Counted):
    """Asks for the same sum as `TwoPasses` does at first."""

    name, family = "toy.mean_only", "toy"
    columns = pa.schema([column("above_mean", pa.bool_())])

    def statistics(self, known, context):
        """Ask for the sum."""
        return {} if "average" in known else {"my sum": PowerSum(1)}

    def learn(self, sums, known, context):
        """Mean."""
        return {"average": np.array(sums["my sum"].total / sums["my sum"].rows)}

    def values(self, batch, loaded):
        """Whether a row is above the mean."""
        values = np.full(len(batch), None, object)
        values[batch.image.valid] = grid(batch) > loaded["average"]
        return {"above_mean": values}


class Forgetful(MeanOnly):
    """Never returns what it learnt."""

    name = "toy.forgetful"
    columns = pa.schema([column("forgotten")])

    def learn(self, sums, known, context):
        """Forget."""
        return known


class Insatiable(MeanOnly):
    """Always asks for another sum."""

    name = "toy.insatiable"
    columns = pa.schema([column("more")])

    def statistics(self, known, context):
        """Ask for the next power."""
        return {"sum": PowerSum(0, len(known))}

    def learn(self, sums, known, context):
        """One array more."""
        return {**known, f"pass{len(known)}": np.array(1)}


class Plain(Counted):
    """Learns nothing: columns of several types from the row alone."""

    name, family = "toy.plain", "toy"
    columns = pa.schema(
        [
            column("position", pa.int32()),
            column("is_even", pa.bool_()),
            column("name", pa.string()),
            column("length"),
        ]
    )

    def __init__(self, offset: int = 0):
        """Add `offset` to positions."""
        self._offset = offset

    def parameters(self):
        """The offset."""
        return {"offset": self._offset}

    def values(self, batch, loaded):
        """NULL where a row has no image."""
        rows = np.arange(len(batch)) + batch.start
        valid = batch.image.valid
        return {
            "position": np.where(valid, rows + self._offset, np.nan),
            "is_even": np.where(valid, rows % 2 == 0, None),
            "name": np.where(valid, batch.uid.to_numpy(zero_copy_only=False), None),
            "length": np.where(valid, batch.image.norms(), np.nan),
        }


class Other(Counted):
    """A second scorer of the family; the logit scale as a column."""

    name, family = "toy.other", "toy"
    columns = pa.schema([column("scale")])

    def values(self, batch, loaded):
        """The logit scale of every row."""
        return {"scale": np.full(len(batch), loaded["context"].logit_scale)}


class Alone(Plain):
    """The same in a family of its own."""

    name, family = "alone", "alone"
    columns = pa.schema([field.with_name(f"alone_{field.name}") for field in Plain.columns])

    def values(self, batch, loaded):
        """Rename the columns."""
        return {f"alone_{name}": v for name, v in super().values(batch, loaded).items()}


class Wrong(Counted):
    """Columns that do not fit; `how` says in what way."""

    name, family = "toy.wrong", "toy"
    columns = pa.schema([column("fine"), column("amiss")])

    def __init__(self, how: str = "missing"):
        """Be wrong in this way."""
        self._how = how

    def parameters(self):
        """In what way."""
        return {"how": self._how}

    def values(self, batch, loaded):
        """Wrong columns."""
        columns: dict = {"fine": np.zeros(len(batch))}
        if self._how == "short":
            columns["amiss"] = np.zeros(len(batch) - 1)
        if self._how == "scalar":
            columns["amiss"] = np.array(1.0)
        return columns


CLASSES = PromptSet.from_templates(["cat", "dog", "{}"], ["a photo of a {}.", "{}"])
RAW = PromptSet(CLASSES.names, CLASSES.texts, normalize_texts=False)


class Classes(Counted):
    """Cosine with the best class."""

    name, family = "toy.classes", "toy"
    columns = pa.schema([column("best_class", pa.int64()), column("best_cosine")])

    def prompts(self):
        """Two sets."""
        return (CLASSES, RAW)

    def values(self, batch, loaded):
        """Best class and its cosine."""
        assert loaded["context"].prototypes.keys() == {CLASSES, RAW}
        cosines = batch.image_cosines(CLASSES)
        best = np.nan_to_num(cosines, nan=-2.0).argmax(axis=1)
        return {
            "best_class": np.where(batch.image.valid, best, np.nan),
            "best_cosine": cosines[np.arange(len(batch)), best],
        }


class Nearest(Counted):
    """Number of and distance to the nearest row of the dataset."""

    name, family = "toy.nearest", "toy"
    needs = frozenset({Input.IMAGE_EMBEDDING, Input.NEIGHBOURS})
    columns = pa.schema([column("nearest", pa.int64()), column("nearest_distance")])
    spec = NeighbourSpec(k=2)

    def neighbour_lists(self):
        """One specification."""
        return (self.spec,)

    def values(self, batch, loaded):
        """First neighbour."""
        lists = batch.neighbours[self.spec]
        return {
            self.columns.names[0]: np.where(lists.indices[:, 0] >= 0, lists.indices[:, 0], np.nan),
            self.columns.names[1]: lists.distances[:, 0],
        }


class NearestToo(Nearest):
    """The same lists in another family."""

    name, family = "near", "near"
    columns = pa.schema([column("near_row", pa.int64()), column("near_distance")])


TOYS = {
    each.name: f"tests.scoring.toys:{each.__name__}"
    for each in (
        *(TwoPasses, MeanOnly, Forgetful, Insatiable, Plain, Other, Alone, Wrong),
        *(Classes, Nearest, NearestToo),
    )
}
