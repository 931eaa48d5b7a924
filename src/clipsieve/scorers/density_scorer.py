"""The `density` family: how sparse the surroundings of each row's image embedding are."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from clipsieve.errors import UsageError
from clipsieve.neighbours.lists import NeighbourLists
from clipsieve.neighbours.metric import Metric, check_metric
from clipsieve.scorers.base import (
    Arrays,
    Context,
    Input,
    NeighbourSpec,
    PairBatch,
    Scorer,
    Statistic,
    score_column,
)
from clipsieve.scorers.density import (
    DEFAULT_K,
    DEFAULT_LID_K,
    ReferenceDensity,
    dao,
    k_distance,
    lid_mle,
    lof,
    reference_density,
    slof,
)
from clipsieve.scorers.options import check_flag, check_ints
from clipsieve.scorers.sample_search import SampleSearch, sample_arrays
from clipsieve.statistics.hash_sample import HashSample, SampleState
from clipsieve.statistics.row_arrays import RowArrays

#: Two sizes: what few rows have in common is sparse against both, what many have only against the
#: small one.
DEFAULT_REFERENCE = ("auto", "large")
#: Least and most rows, and times the square root of all rows, of the references by name.
_SIZES = {"auto": (512, 2048, 2), "large": (2048, 8192, 8)}

_PAPER = "arXiv:2502.01385"
#: Name of a column's end, what it is, and where it is defined.
_SCORES = {
    "kdist": ("distance to the k-th neighbour", _PAPER),
    "slof": ("mean ratio of own to neighbours' k-distance", "10.1007/s10618-012-0300-z, section 3"),
    "dao": ("the same, each ratio to the power of the neighbour's LID", "arXiv:2401.05453"),
    "lid": ("local intrinsic dimension, maximum likelihood", "10.1145/2783258.2783405"),
}


@dataclass(frozen=True, slots=True)
class ListDensities:
    """Statistic: k-distance and LID, both over k neighbours, of every row from its own list.

    Attributes:
      spec: the lists.
      k: neighbours.
    """

    spec: NeighbourSpec
    k: int
    needs = frozenset({Input.NEIGHBOURS})

    def observe(self, batch: PairBatch, context: Context) -> RowArrays:
        """Return the densities of the rows of `batch`, images and captions apart."""
        arrays = _densities(batch.neighbours[self.spec], self.k)
        if self.spec.texts:
            captions = _densities(batch.caption_neighbours[self.spec], self.k)
            arrays |= {f"caption.{name}": values for name, values in captions.items()}
        return RowArrays({(batch.shard, batch.start): arrays})


class Density(Scorer):
    """k-distance, SLOF, DAO and LID of each image embedding, against one or more reference sets.

    A row whose image has no embedding has no score.  The columns of the first reference are named
    `density_<score>`, those of the others end in `_<reference>`.
    """

    name = family = "density"

    def __init__(
        self,
        reference: str | int | Sequence[str | int] = DEFAULT_REFERENCE,
        k: int = DEFAULT_K,
        lid_k: int = DEFAULT_LID_K,
        metric: Metric = "euclidean",
        texts: bool = False,
        seed: int = 0,
    ) -> None:
        """Make a scorer against the given reference sets.

        Args:
          reference: one or more of a number of rows (those whose uids hash lowest), `auto` and
            `large` (see `reference_size`), `all`, and `batch<n>` (the dataset dealt into batches of
            about n rows, as in the paper); as a sequence or separated by commas.
          k: neighbours for k-distance, SLOF and DAO.
          lid_k: neighbours for LID; the paper's code has 64.
          metric: `euclidean`, on vectors as the model gave them, as in the paper; or `cosine`,
            which is 1 - cos.
          texts: whether captions are in the reference beside images.
          seed: of the hash that chooses rows.

        Raises:
          UsageError: for a value out of range.
        """
        check_ints(self.name, {"k": (k, 1), "lid_k": (lid_k, 1), "seed": (seed, 0)})
        check_metric(metric)
        check_flag(self.name, "texts", texts)
        self._k, self._lid_k, self._seed = k, lid_k, seed
        self._metric, self._texts = metric, texts
        self._references = _reference_names(reference)
        sides = {Input.IMAGE_EMBEDDING, Input.TEXT_EMBEDDING} if texts else {Input.IMAGE_EMBEDDING}
        self.needs = frozenset(sides | ({Input.NEIGHBOURS} if self._specs() else set()))
        self.columns = pa.schema(
            [
                score_column(
                    f"density_{score}{self._suffix(name)}",
                    f"{doc}, reference {name}",
                    "higher is more suspicious",
                    "[0, inf)",
                    source,
                )
                for name in self._references
                for score, (doc, source) in _SCORES.items()
            ]
        )

    def parameters(self) -> Mapping[str, Any]:
        """All options."""
        return {
            "reference": list(self._references),
            "k": self._k,
            "lid_k": self._lid_k,
            "metric": self._metric,
            "texts": self._texts,
            "seed": self._seed,
        }

    def neighbour_lists(self) -> tuple[NeighbourSpec, ...]:
        """Return one specification for each reference that is the whole dataset."""
        return tuple(self._specs().values())

    def statistics(self, known: Arrays, context: Context) -> Mapping[str, Statistic]:
        """Return the sample of each reference, or the densities of all rows from their lists."""
        specs = self._specs()
        return {
            name: ListDensities(specs[name], self._k)
            if name in specs
            else reference_sample(name, self._seed, self._texts, known, context)
            for name in self._references
            if f"{name}.k_distance" not in known
        }

    def learn(self, sums: Mapping[str, Any], known: Arrays, context: Context) -> Arrays:
        """Return each reference's vectors, if it is a sample, and their k-distances and LID."""
        arrays = dict(known)
        for name, state in sums.items():
            if isinstance(state, RowArrays):
                arrays |= {f"{name}.{key}": value for key, value in _joined(state).items()}
            elif keep_sample(name, state, arrays):
                lists = self._search(name, arrays, context).search_sample()
                arrays |= {f"{name}.{key}": v for key, v in _densities(lists, self._k).items()}
        return arrays

    def load(self, known: Arrays, context: Context) -> dict[str, SampleSearch | Arrays]:
        """Index the samples."""
        searches = {
            name: self._search(name, known, context)
            for name in self._references
            if name not in self._specs()
        }
        return {**searches, "": known}

    def score(self, batch: PairBatch, loaded: Any) -> Mapping[str, np.ndarray]:
        """Four columns a reference; NaN where the image has no embedding or no neighbour."""
        known, specs = loaded[""], self._specs()
        columns: dict[str, np.ndarray] = {}
        for name in self._references:
            lists = batch.neighbours[specs[name]] if name in specs else loaded[name].search(batch)
            density = ReferenceDensity(known[f"{name}.k_distance"], known[f"{name}.lid"])
            values = {
                "kdist": k_distance(lists.distances, self._k),
                "slof": slof(lists.distances, lists.indices, density, self._k),
                "dao": dao(lists.distances, lists.indices, density, self._k),
                "lid": lid_mle(lists.distances, self._lid_k),
            }
            suffix = self._suffix(name)
            columns |= {f"density_{score}{suffix}": value for score, value in values.items()}
        return columns

    def _search(self, name: str, arrays: Arrays, context: Context) -> SampleSearch:
        k = max(self._k, self._lid_k)
        return SampleSearch(name, arrays, k, self._metric, self._seed, self._texts, context.device)

    def _specs(self) -> dict[str, NeighbourSpec]:
        """Specifications of the references that are the whole dataset, by name."""
        return {
            name: NeighbourSpec(
                k=max(self._k, self._lid_k),
                batch=int(name.removeprefix("batch")) if name != "all" else None,
                seed=self._seed,
                metric=self._metric,
                texts=self._texts,
            )
            for name in self._references
            if name == "all" or name.startswith("batch")
        }

    def _suffix(self, name: str) -> str:
        return "" if name == self._references[0] else f"_{name}"


class LocalOutlierFactor(Scorer):
    """LOF of each image embedding against a sample of the dataset.

    Breunig et al., SIGMOD 2000; see `clipsieve.scorers.density.lof`.  A row whose image has no
    embedding has no score.
    """

    name, family = "density.lof", "density"
    columns = pa.schema(
        [
            score_column(
                "density_lof",
                "mean ratio of neighbours' to own local reachability density",
                "higher is more suspicious",
                "[0, inf)",
                "10.1145/342009.335388, definitions 5 to 7",
            )
        ]
    )

    def __init__(
        self,
        reference: str | int = "auto",
        k: int = DEFAULT_K,
        metric: Metric = "euclidean",
        seed: int = 0,
    ) -> None:
        """Make a scorer against one sample.

        Args:
          reference: a number of rows (those whose uids hash lowest), or `auto` or `large` (see
            `reference_size`).
          k: neighbours.
          metric: `euclidean` or `cosine`.
          seed: of the hash that chooses rows.

        Raises:
          UsageError: for a value out of range.
        """
        check_ints(self.name, {"k": (k, 1), "seed": (seed, 0)})
        check_metric(metric)
        self._k, self._metric, self._seed = k, metric, seed
        self._reference = sample_reference_name(reference)

    def parameters(self) -> Mapping[str, Any]:
        """All options."""
        return {
            "reference": self._reference,
            "k": self._k,
            "metric": self._metric,
            "seed": self._seed,
        }

    def statistics(self, known: Arrays, context: Context) -> Mapping[str, Statistic]:
        """Return the sample; the same that `density` draws."""
        if f"{self._reference}.k_distance" in known:
            return {}
        sample = reference_sample(self._reference, self._seed, False, known, context)
        return {self._reference: sample}

    def learn(self, sums: Mapping[str, Any], known: Arrays, context: Context) -> Arrays:
        """Return the sample's vectors with their densities."""
        arrays, name = dict(known), self._reference
        if keep_sample(name, sums[name], arrays):
            lists = self._search(arrays, context).search_sample()
            density = reference_density(lists.distances, lists.indices, self._k)
            assert density.reachability is not None
            arrays[f"{name}.k_distance"] = density.k_distance
            arrays[f"{name}.lid"] = density.lid
            arrays[f"{name}.reachability"] = density.reachability
        return arrays

    def load(self, known: Arrays, context: Context) -> tuple[SampleSearch, ReferenceDensity]:
        """Index the sample."""
        kinds = ("k_distance", "lid", "reachability")
        density = ReferenceDensity(*(known[f"{self._reference}.{kind}"] for kind in kinds))
        return self._search(known, context), density

    def score(self, batch: PairBatch, loaded: Any) -> Mapping[str, np.ndarray]:
        """One column; NaN where the image has no embedding or no neighbour."""
        search, density = loaded
        lists = search.search(batch)
        return {"density_lof": lof(lists.distances, lists.indices, density, self._k)}

    def _search(self, arrays: Arrays, context: Context) -> SampleSearch:
        return SampleSearch(
            self._reference, arrays, self._k, self._metric, self._seed, False, context.device
        )


def reference_sample(
    name: str, seed: int, texts: bool, known: Arrays, context: Context
) -> HashSample:
    """Return the sample that a reference name stands for.

    Args:
      name: a number of rows, `auto` or `large`.
      seed: of the hash.
      texts: whether captions are kept.
      known: says whether the sample was drawn before and came out short, see `keep_sample`.
      context: of the dataset.
    """
    size = reference_size(name, context.rows) if name in _SIZES else int(name)
    rows = 0 if f"{name}.short" in known else context.rows
    return HashSample.bounded(size, seed, texts, rows)


def keep_sample(name: str, sample: SampleState, arrays: dict[str, np.ndarray]) -> bool:
    """Put a sample into `arrays`; if it came out short, only a note to draw it without a bound.

    Returns:
      Whether the sample is there.
    """
    if sample.is_short:
        arrays[f"{name}.short"] = np.array(True)
        return False
    arrays.pop(f"{name}.short", None)
    arrays |= sample_arrays(name, sample)
    return True


def reference_size(name: str, rows: int) -> int:
    """Rows of the reference `auto`: twice the square root of `rows`, but 512 to 2,048.

    `large` has eight times the square root, but 2,048 to 8,192.  Copies of one picture are seen as
    long as the reference holds fewer than k of them, so it must be small against the dataset; and
    k = 16 must be small against it, or the k-th neighbour is not near.

    >>> [reference_size("auto", rows) for rows in (0, 100_000, 400_000_000)]
    [512, 633, 2048]
    >>> [reference_size("large", rows) for rows in (0, 100_000, 400_000_000)]
    [2048, 2530, 8192]
    """
    least, most, factor = _SIZES[name]
    return min(most, max(least, math.ceil(factor * math.sqrt(rows))))


def sample_reference_name(reference: str | int) -> str:
    """Return the name of a reference that is a sample.

    Raises:
      UsageError: if it is neither a number of rows nor `auto`.
    """
    name = str(reference).strip()
    if not re.fullmatch(r"auto|large|[1-9]\d*", name) or isinstance(reference, bool):
        raise UsageError(f"reference {reference!r} must be a number of rows, 'auto' or 'large'")
    return name


def _densities(lists: NeighbourLists, k: int) -> dict[str, np.ndarray]:
    """k-distance and LID of each vector, both over k neighbours."""
    return {"k_distance": k_distance(lists.distances, k), "lid": lid_mle(lists.distances, k)}


def _joined(densities: RowArrays) -> dict[str, np.ndarray]:
    """Densities in the numbering of the lists: all images, then all captions."""
    arrays = densities.joined()
    return {
        name: np.concatenate([arrays[key] for key in (name, f"caption.{name}") if key in arrays])
        for name in ("k_distance", "lid")
    }


def _reference_names(reference: str | int | Sequence[str | int]) -> tuple[str, ...]:
    """Return the names of the reference sets, in the order given.

    Raises:
      UsageError: if one is none of the forms, or is given twice.
    """
    given = reference.split(",") if isinstance(reference, str) else reference
    sets = given if isinstance(given, list | tuple) else (given,)
    names = tuple(str(name).strip() for name in sets)
    wrong = [name for name in names if not re.fullmatch(r"all|auto|large|(batch)?[1-9]\d*", name)]
    if wrong or not names:
        raise UsageError(
            f"reference {', '.join(wrong) or 'is empty and'} must be a number of rows, 'auto', "
            "'large', 'all', or 'batch' and a number, such as 2048,16384,all or batch2048"
        )
    if len(set(names)) < len(names):
        raise UsageError(f"reference {', '.join(names)} names one set twice; name it once")
    return names
