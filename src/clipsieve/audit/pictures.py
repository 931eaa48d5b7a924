"""Groups of near pictures: around rows of low similarity, and around any rows for comparison."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from clipsieve.audit.candidates import LEAST_ROWS, Candidate
from clipsieve.audit.data import AuditData
from clipsieve.audit.evidence import Tests, spreads
from clipsieve.audit.key_sums import KeySums
from clipsieve.audit.keys import Kind, RowKeys
from clipsieve.audit.members import Members
from clipsieve.audit.near import representatives
from clipsieve.audit.ordinary import OrdinaryRows

#: Rows among which representatives of near pictures are looked for: those of lowest similarity.
MOST_SUSPECTS = 1000
#: Representatives.
MOST_CENTRES = 512
#: Normal score of low similarity from which a row may be a representative.
SUSPECT_SCORE = 2.0
#: Rows drawn by hash, whose near pictures are ordinary groups.
SAMPLE_ROWS = 256

Load = Callable[[int], tuple[RowKeys, Mapping[str, np.ndarray]]]


@dataclass(frozen=True, slots=True)
class Centres:
    """Pictures around which groups are made.

    Attributes:
      places: (R, 2) int64 shard and row of each representative.
      vectors: (R, D) float32 of unit norm.
      suspects: rows that they were chosen among.
      sample: (S, D) float32 of unit norm: of rows drawn without regard to their similarity.
    """

    places: np.ndarray
    vectors: np.ndarray
    suspects: int
    sample: np.ndarray


NO_CENTRES = Centres(
    np.zeros((0, 2), np.int64), np.zeros((0, 1), np.float32), 0, np.zeros((0, 1), np.float32)
)


def find_centres(
    data: AuditData,
    shards: Sequence[str],
    load: Load,
    similarity: OrdinaryRows,
    near_cosine: float,
) -> Centres:
    """Representatives among the rows of lowest similarity, and a sample of all rows.

    Args:
      data: has the image vectors.
      shards: names.
      load: keys and values of a shard, by its number.
      similarity: ordinary rows of low CLIP similarity.
      near_cosine: from which pictures are near.
    """
    outermost = _outermost(similarity, MOST_SUSPECTS)
    column = similarity.witness.column
    places, orders, suspect, hashes = [], [], [], []
    for shard in range(len(shards)):
        keys, values = load(shard)
        mixed = _row_hashes(keys)
        is_suspect = similarity.is_in(outermost, values[column])
        # The rows of the sample lie among the least hashes of their shard.
        is_drawn = np.zeros(len(keys), bool)
        is_drawn[np.argsort(mixed, kind="stable")[:SAMPLE_ROWS]] = True
        rows = np.flatnonzero(is_suspect | is_drawn)
        places.append(np.stack([np.full(len(rows), shard), rows], axis=1))
        kinds = (Kind.IMAGE_BYTES, Kind.CAPTION, Kind.HOST)
        orders.append([values[column][rows], *(keys.single[kind][rows] for kind in kinds)])
        suspect.append(is_suspect[rows])
        hashes.append(np.where(is_drawn[rows], mixed[rows], np.iinfo(np.uint64).max))
    if not places:
        return NO_CENTRES
    place, is_suspect, mixed = map(np.concatenate, (places, suspect, hashes))
    drawn = np.argsort(mixed, kind="stable")[:SAMPLE_ROWS]
    kept = is_suspect.copy()
    kept[drawn] = True
    is_drawn = np.zeros(len(place), bool)
    is_drawn[drawn] = True
    unit, has_vector = _vectors(data, shards, place[kept])
    columns = [np.concatenate(each)[kept][has_vector] for each in zip(*orders, strict=True)]
    place, unit = place[kept][has_vector], unit[has_vector]
    is_suspect, is_drawn = is_suspect[kept][has_vector], is_drawn[kept][has_vector]
    order = np.lexsort((place[:, 1], place[:, 0], *reversed(columns)))
    order = order[is_suspect[order]]
    chosen = order[representatives(unit[order], near_cosine, LEAST_ROWS, MOST_CENTRES)]
    return Centres(place[chosen], unit[chosen], len(order), unit[is_drawn])


def complete_candidates(
    candidates: Sequence[Candidate], members: Members, centres: Centres
) -> tuple[list[Candidate], dict[int, int]]:
    """Fill in what is known of groups of near pictures once their members are.

    Returns:
      The candidates with their rows, and for each group of near pictures the number of the member
      in its middle.
    """
    complete = [
        replace(each, rows=len(rows)) for each, rows in zip(candidates, members.groups, strict=True)
    ]
    middles = {}
    for number, each in enumerate(complete):
        if each.kind is Kind.PICTURE:
            shard, row = centres.places[each.key]
            rows = members.groups[number]
            here = (members.shards[rows] == shard) & (members.rows[rows] == row)
            if here.any():
                middles[number] = int(rows[here][0])
    return complete, middles


def picture_tests(
    tests: Tests, candidates: Sequence[Candidate], suspects: int, sample: KeySums
) -> Tests:
    """The tests of groups of near pictures.

    Args:
      tests: without what only the pass over all vectors tells.
      candidates: complete.
      suspects: rows that might have been a representative: each has been tried.
      sample: sums over the rows near each row of the sample, which are ordinary groups.
    """
    total = sum(each.rows for each in candidates if each.kind is Kind.PICTURE)
    return replace(tests, kind_rows=max(total, suspects), spreads=spreads(sample))


def _outermost(ordinary: OrdinaryRows, most: int) -> np.ndarray:
    """(B,) bool: the outermost bins of a witness, those of at most `most` rows in all.

    None has a score below `SUSPECT_SCORE`.
    """
    counts = ordinary.counts
    order = slice(None, None, -1) if ordinary.witness.is_high else slice(None)
    chosen = np.cumsum(counts.rows[order]) <= most
    return np.asarray(chosen[order] & (ordinary.known >= SUSPECT_SCORE))


def _row_hashes(keys: RowKeys) -> np.ndarray:
    """(N,) uint64: a hash of picture and caption, the same in any shard."""
    odd = np.uint64(0x9E3779B97F4A7C15)
    mixed = keys.single[Kind.IMAGE_BYTES] * odd ^ keys.single[Kind.CAPTION]
    mixed = (mixed ^ (mixed >> np.uint64(29))) * odd
    return np.asarray(mixed ^ (mixed >> np.uint64(32)))


def _vectors(
    data: AuditData, shards: Sequence[str], places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of the rows at (K, 2) places, which rise by shard and row, and which have one."""
    numbers = np.unique(places[:, 0]).tolist()

    def read(name: str) -> tuple[np.ndarray, np.ndarray]:
        return data.vectors(name, places[places[:, 0] == shards.index(name), 1])

    parts = list(data.each(read, [shards[number] for number in numbers]))
    width = max((unit.shape[1] for unit, valid in parts if valid.any()), default=1)
    units = [u if u.shape[1] == width else np.zeros((len(u), width), np.float32) for u, _ in parts]
    none = np.zeros((0, width), np.float32)
    return np.concatenate([none, *units]), np.concatenate(
        [np.zeros(0, bool), *(valid for _, valid in parts)]
    )
