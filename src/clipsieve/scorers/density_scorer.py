"""The `density` family: how sparse the surroundings of each row's image embedding are."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from clipsieve.errors import UsageError
from clipsieve.neighbours.lists import NeighbourLists
from clipsieve.neighbours.metric import Metric, check_metric
from clipsieve.scorers.base import Fitted, Input, PairBatch, ReferenceSet, Scorer, score_column
from clipsieve.scorers.density import (
    DEFAULT_K,
    DEFAULT_LID_K,
    ReferenceDensity,
    dao,
    k_distance,
    lid_mle,
    slof,
)

DEFAULT_REFERENCE = "auto"
_AUTO_LEAST, _AUTO_MOST = 128, 2048

_PAPER = "arXiv:2502.01385"
#: Name of a column's end, what it is, and where it is defined.
_SCORES = {
    "kdist": ("distance to the k-th neighbour", _PAPER),
    "slof": ("mean ratio of own to neighbours' k-distance", "10.1007/s10618-012-0300-z, section 3"),
    "dao": ("the same, each ratio to the power of the neighbour's LID", "arXiv:2401.05453"),
    "lid": ("local intrinsic dimension, maximum likelihood", "10.1145/2783258.2783405"),
}


class Density(Scorer):
    """k-distance, SLOF, DAO and LID of each image embedding, against one or more reference sets.

    A row whose image has no embedding has no score.  The columns of the first reference are named
    `density_<score>`, those of the others end in `_<reference>`.
    """

    family = "density"

    def __init__(
        self,
        reference: str | int | Sequence[str | int] = DEFAULT_REFERENCE,
        k: int = DEFAULT_K,
        lid_k: int = DEFAULT_LID_K,
        metric: Metric = "euclidean",
        texts: bool = False,
        seed: int = 0,
    ) -> None:
        """A scorer against the given reference sets.

        Args:
          reference: one or more of a number of rows (those whose uids hash lowest), `auto` (see
            `auto_size`), `all`, and `batch<n>` (the dataset dealt into batches of about n rows, as
            in the paper); as a sequence or separated by commas.
          k: neighbours for k-distance, SLOF and DAO.
          lid_k: neighbours for LID; the paper's code has 64.
          metric: `euclidean`, on vectors as the model gave them, as in the paper; or `cosine`,
            which is 1 - cos.
          texts: whether captions are in the reference beside images.
          seed: of the hash that chooses rows.

        Raises:
          UsageError: for a value out of range.
        """
        for name, value, least in (("k", k, 1), ("lid_k", lid_k, 1), ("seed", seed, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UsageError(
                    f"option {name} of scorer density must be an int of at least {least}, "
                    f"got {value!r}"
                )
        if seed >= 2**64:
            raise UsageError(f"option seed of scorer density must be under 2**64, got {seed}")
        check_metric(metric)
        if not isinstance(texts, bool):
            raise UsageError(f"option texts of scorer density must be true or false, got {texts!r}")
        self._k, self._lid_k, self._seed = k, lid_k, seed
        self._metric, self._texts = metric, texts
        self._names = _reference_names(reference)
        self.needs = frozenset(
            {Input.IMAGE_EMBEDDING, Input.TEXT_EMBEDDING} if texts else {Input.IMAGE_EMBEDDING}
        )
        self.columns = pa.schema(
            [
                score_column(
                    f"density_{score}{self._suffix(name)}",
                    f"{doc}, reference {name}",
                    "higher is more suspicious",
                    "[0, inf)",
                    source,
                )
                for name in self._names
                for score, (doc, source) in _SCORES.items()
            ]
        )

    def parameters(self) -> Mapping[str, Any]:
        """All options."""
        return {
            "reference": list(self._names),
            "k": self._k,
            "lid_k": self._lid_k,
            "metric": self._metric,
            "texts": self._texts,
            "seed": self._seed,
        }

    def references(self, rows: int) -> Mapping[str, ReferenceSet]:
        """One set for each reference, by the name given."""
        sizes = {"all": None, "auto": auto_size(rows)}
        return {
            name: ReferenceSet(
                k=max(self._k, self._lid_k),
                size=sizes[name] if name in sizes else int(name.removeprefix("batch")),
                batch=name.startswith("batch"),
                seed=self._seed,
                metric=self._metric,
                texts=self._texts,
            )
            for name in self._names
        }

    def describe(self, neighbours: NeighbourLists) -> Mapping[str, np.ndarray]:
        """k-distance and LID of each reference vector, both over k neighbours."""
        return {
            "k_distance": k_distance(neighbours.distances, self._k),
            "lid": lid_mle(neighbours.distances, self._k),
        }

    def score(self, batch: PairBatch, fitted: Fitted) -> Mapping[str, np.ndarray]:
        """Four columns a reference; NaN where the image has no embedding or no neighbour."""
        columns: dict[str, np.ndarray] = {}
        for name in self._names:
            lists = batch.neighbours[name]
            held = ReferenceDensity(fitted[f"{name}.k_distance"], fitted[f"{name}.lid"])
            values = {
                "kdist": k_distance(lists.distances, self._k),
                "slof": slof(lists.distances, lists.indices, held, self._k),
                "dao": dao(lists.distances, lists.indices, held, self._k),
                "lid": lid_mle(lists.distances, self._lid_k),
            }
            suffix = self._suffix(name)
            columns |= {f"density_{score}{suffix}": value for score, value in values.items()}
        return columns

    def _suffix(self, name: str) -> str:
        return "" if name == self._names[0] else f"_{name}"


def auto_size(rows: int) -> int:
    """Rows of the reference `auto`: twice the square root of `rows`, but 128 to 2,048.

    Copies of one picture are seen as long as the reference holds fewer than k of them, so it must
    be small against the dataset; and a k-distance among too few rows is noise.

    >>> [auto_size(rows) for rows in (0, 2_000, 100_000, 400_000_000)]
    [128, 128, 633, 2048]
    """
    return min(_AUTO_MOST, max(_AUTO_LEAST, math.ceil(2 * math.sqrt(rows))))


def _reference_names(reference: str | int | Sequence[str | int]) -> tuple[str, ...]:
    """Names of the reference sets, in the order given.

    Raises:
      UsageError: if one is none of the forms, or is given twice.
    """
    given = reference.split(",") if isinstance(reference, str) else reference
    sets = given if isinstance(given, list | tuple) else (given,)
    names = tuple(str(name).strip() for name in sets)
    wrong = [name for name in names if not re.fullmatch(r"all|auto|(batch)?[1-9]\d*", name)]
    if wrong or not names:
        raise UsageError(
            f"reference {', '.join(wrong) or 'is empty and'} must be a number of rows, 'auto', "
            "'all', or 'batch' and a number, such as 2048,16384,all or batch2048"
        )
    if len(set(names)) < len(names):
        raise UsageError(f"reference {', '.join(names)} names one set twice; name it once")
    return names
