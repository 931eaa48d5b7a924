"""Groups as a curator reads them: why, captions, hosts, examples, and how to take them out."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa

from clipsieve.audit.captions import normalised
from clipsieve.audit.data import AuditData
from clipsieve.audit.groups import SuspectGroup
from clipsieve.audit.key_sums import SCALE, fixed
from clipsieve.audit.keys import Kind, hosts
from clipsieve.audit.ordinary import log_tail
from clipsieve.audit.survey import Findings
from clipsieve.audit.witnesses import LOW_SIMILARITY, SawData, Witness

#: Groups that are described, the first ones.
MOST_GROUPS = 1000
#: Captions and hosts of a group that are named.
NAMED = 3
#: Rows of a group that are named.
EXAMPLES = 5
#: Uids and captions that a predicate lists, at most, and characters that it may have.
MOST_LISTED, MOST_CHARACTERS = 2000, 20_000
#: 95 % of normal scores lie within it.
_WITHIN = 1.96


class Finding(StrEnum):
    """What a group is."""

    #: Few pictures, each many times, and they are out of the ordinary.
    ODD_COPIES = "odd_copies"
    #: Captions that do not fit their pictures.
    WRONG_CAPTIONS = "wrong_captions"
    #: Pictures unlike the others.
    ODD_PICTURES = "odd_pictures"
    #: Sparse and very similar: a backdoor that the model learnt, or any rare concept that it knows.
    RARE_AND_LEARNT = "rare_and_learnt"
    #: Out of the ordinary by a column that the user named.
    COLUMN = "column"


@dataclass(frozen=True, slots=True)
class Group:
    """One line of the audit; the columns of `groups_schema` but `rank`, which is its place.

    Attributes:
      found: the group.
      finding: what it is.
      why: a sentence.
      evidence_per_row: nats.
      p: tail among ordinary groups, corrected.
      share: of all rows.
      witness: column that speaks against it the most.
      witness_mean: mean of that column over its rows.
      ordinary_low: of 95 % of ordinary groups with as many observations, the lowest mean of it.
      ordinary_high: the highest.
      captions: the most frequent, as their most suspicious row has them.
      caption_rows: rows of each of these.
      n_captions: different ones.
      similarity: mean cosine between pictures of two rows; NaN with fewer than two.
      hosts: the most frequent.
      n_hosts: different ones.
      uids: different uids of at most `EXAMPLES` rows, the most suspicious first.
      urls: their addresses.
      keep: predicate that all rows but the group fulfil; None if it would be too long.
      identities: `uid`, `caption`, `url` and `image_sha256` of its rows, in the order of `found`.
    """

    found: SuspectGroup
    finding: Finding
    why: str
    evidence_per_row: float
    p: float
    share: float
    witness: str
    witness_mean: float
    ordinary_low: float
    ordinary_high: float
    captions: tuple[str, ...]
    caption_rows: tuple[int, ...]
    n_captions: int
    similarity: float
    hosts: tuple[str, ...]
    n_hosts: int
    uids: tuple[Any, ...]
    urls: tuple[str | None, ...]
    keep: str | None
    identities: pa.Table

    @property
    def kind(self) -> Kind:
        """What its rows share."""
        return self.found.candidate.kind

    @property
    def evidence(self) -> float:
        """Nats in all."""
        return self.found.evidence

    @property
    def rows(self) -> int:
        """Rows of the group."""
        return len(self.found.members)

    @property
    def n_images(self) -> int:
        """Different pictures."""
        return self.found.n_pictures

    @property
    def copies(self) -> int:
        """Rows of the most frequent picture."""
        return self.found.copies


def describe(
    data: AuditData, findings: Findings, witnesses: Sequence[Witness], saw_data: SawData
) -> list[Group]:
    """Describe the groups of an audit in the order in which they are listed.

    With `SawData.YES` groups that a model has learnt come before all others, else behind them:
    that a concept is rare and known is no fault of it unless the model may have learnt a poison.
    """
    first = saw_data is SawData.YES
    groups = sorted(
        findings.groups, key=lambda group: (group.outcome.is_learnt != first, group.order)
    )[:MOST_GROUPS]
    identities, similarities = _read(data, findings, groups)
    return [
        _described(findings, witnesses, group, table, similarity)
        for group, table, similarity in zip(groups, identities, similarities, strict=True)
    ]


def _read(
    data: AuditData, findings: Findings, groups: Sequence[SuspectGroup]
) -> tuple[list[pa.Table], list[float]]:
    """Identities of the rows of each group, and the mean cosine of their pictures."""
    members = findings.members
    chosen = np.unique(np.concatenate([np.zeros(0, np.int64), *(g.members for g in groups)]))
    owner = np.full(len(members.rows), -1, np.int64)
    for number, group in enumerate(groups):
        owner[group.members] = number
    counts = np.zeros(len(groups), np.int64)
    sums: np.ndarray | None = None
    tables: list[pa.Table] = []
    shards = findings.shards
    wanted = np.unique(members.shards[chosen]).tolist()

    def read(name: str) -> tuple[np.ndarray, pa.Table, np.ndarray, np.ndarray]:
        here = chosen[members.shards[chosen] == shards.index(name)]
        rows = members.rows[here]
        return here, data.identities(name, rows), *data.vectors(name, rows)

    for here, table, unit, has_vector in data.each(read, [shards[shard] for shard in wanted]):
        tables.append(table)
        if not has_vector.any():
            continue
        if sums is None:
            sums = np.zeros((len(groups), unit.shape[1]), np.int64)
        owners = owner[here[has_vector]]
        np.add.at(sums, owners, fixed(unit[has_vector].astype(np.float64)))
        np.add.at(counts, owners, 1)
    if not tables:
        return [], []
    uid_type = common_type([table.schema.field("uid").type for table in tables])
    whole = pa.concat_tables(
        [table.set_column(0, "uid", table["uid"].cast(uid_type)) for table in tables]
    )
    places = np.searchsorted(chosen, np.arange(len(members.rows)))
    identities = [whole.take(pa.array(places[group.members])) for group in groups]
    similarities = [math.nan] * len(groups)
    if sums is not None:
        squares = ((sums / SCALE) ** 2).sum(axis=1)
        similarities = [
            (square - count) / (count * (count - 1)) if count > 1 else math.nan
            for square, count in zip(squares.tolist(), counts.tolist(), strict=True)
        ]
    return identities, similarities


def common_type(types: Sequence[pa.DataType]) -> pa.DataType:
    """The type of all shards' uids; string if they differ, or if there are none."""
    return types[0] if types and all(other == types[0] for other in types) else pa.string()


def _described(
    findings: Findings,
    witnesses: Sequence[Witness],
    group: SuspectGroup,
    identities: pa.Table,
    similarity: float,
) -> Group:
    """What is known about one group."""
    members, number = findings.members, group.outcome.witness
    captions = identities["caption"].to_pylist()
    uids, urls = identities["uid"].to_pylist(), identities["url"].to_pylist()
    order = _most_suspicious(members.scores[group.members][:, number], uids, urls, captions)
    forms = Counter(form for caption in captions if (form := normalised(caption)) is not None)
    texts = {normalised(captions[place]): captions[place] for place in reversed(order)}
    most = sorted(forms.items(), key=lambda each: (-each[1], each[0]))[:NAMED]
    places = Counter(name for name in hosts(urls) if name is not None)
    values = members.values[group.members][:, number]
    present = values[~np.isnan(values)].tolist()
    mean = math.fsum(present) / max(len(present), 1)  # the same in any order, of any size
    low, high = _ordinary_range(findings, group)
    finding = _finding(group, witnesses[number])
    examples = list(dict.fromkeys(uids[place] for place in order))[:EXAMPLES]
    addresses = {uids[place]: urls[place] for place in reversed(order)}
    return Group(
        found=group,
        finding=finding,
        why=_why(group, witnesses[number], mean, (low, high), len(forms)),
        evidence_per_row=group.evidence / len(group.members),
        p=min(1.0, math.exp(max(group.outcome.log_p, -700.0))),
        share=len(group.members) / findings.rows,
        witness=witnesses[number].column,
        witness_mean=mean,
        ordinary_low=low,
        ordinary_high=high,
        captions=tuple(texts[form] for form, _ in most),
        caption_rows=tuple(count for _, count in most),
        n_captions=len(forms),
        similarity=similarity,
        hosts=tuple(
            name for name, _ in sorted(places.items(), key=lambda each: (-each[1], each[0]))[:NAMED]
        ),
        n_hosts=len(places),
        uids=tuple(examples),
        urls=tuple(addresses[uid] for uid in examples),
        keep=_predicate(group, identities),
        identities=identities,
    )


def _most_suspicious(
    scores: np.ndarray, uids: Sequence[Any], urls: Sequence[Any], captions: Sequence[Any]
) -> list[int]:
    """Places of a group's rows, the most suspicious first; then by uid, address and caption."""

    def key(place: int) -> tuple[Any, ...]:
        score = scores[place]
        texts = (uids[place], urls[place], captions[place])
        return (math.inf if math.isnan(score) else -score, *((t is None, t) for t in texts))

    return sorted(range(len(scores)), key=key)


def _ordinary_range(findings: Findings, group: SuspectGroup) -> tuple[float, float]:
    """Between which means of the witness 95 % of ordinary groups of as many observations lie."""
    number, tests = group.outcome.witness, findings.tests[group.candidate.kind]
    spread = tests.spreads[number].robust
    width = math.sqrt(spread + (1 - spread) / group.observations) * _WITHIN
    ends = [findings.ordinary[number].value(score) for score in (-width, width)]
    return min(ends), max(ends)


def _finding(group: SuspectGroup, witness: Witness) -> Finding:
    if group.outcome.is_learnt:
        return Finding.RARE_AND_LEARNT
    if witness != LOW_SIMILARITY and not witness.is_density:
        return Finding.COLUMN
    if group.is_copied:
        return Finding.ODD_COPIES
    return Finding.WRONG_CAPTIONS if witness == LOW_SIMILARITY else Finding.ODD_PICTURES


_SHARED = {
    Kind.IMAGE_BYTES: "the same file",
    Kind.CAPTION: "one caption",
    Kind.IMAGE_HASH: "one picture",
    Kind.CAPTION_TEMPLATE: "captions that differ in digits",
    Kind.CAPTION_WORD: "captions with one word",
    Kind.PICTURE: "pictures near one",
    Kind.HOST: "one host",
}


def _why(
    group: SuspectGroup, witness: Witness, mean: float, ordinary: tuple[float, float], captions: int
) -> str:
    """One sentence about what is out of the ordinary."""
    rows = len(group.members)
    shared = _SHARED[group.candidate.kind]
    pictures = _counted(group.n_pictures, "picture")
    parts = [f"{rows:,} rows of {shared}, {pictures}, {_counted(captions, 'caption')}"]
    if group.copies > 1:
        parts.append(f"one picture {group.copies:,} times")
    parts.append(
        f"{witness.column} {mean:.4g} on average, where 95 % of ordinary groups of "
        f"{_counted(group.observations, 'observation')} have {ordinary[0]:.4g} to {ordinary[1]:.4g}"
    )
    if group.outcome.is_learnt:
        parts.append("and a similarity far above the ordinary")
    return "; ".join(parts)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _literal(text: str) -> str:
    """A text as a value in SQL."""
    return "'" + text.replace("'", "''") + "'"


def _predicate(group: SuspectGroup, identities: pa.Table) -> str | None:
    """A predicate for `--where` that all rows but these fulfil; rows with NULL in it are kept."""
    column = "uid"
    if len(group.members) == group.candidate.rows:  # no row of the caption is in another group
        columns = {Kind.CAPTION: "caption", Kind.IMAGE_BYTES: "image_sha256"}
        column = columns.get(group.candidate.kind, column)
    values = sorted({value for value in identities[column].to_pylist() if value is not None})
    if not values or len(values) > MOST_LISTED:
        return None
    listed = ", ".join(
        _literal(value) if isinstance(value, str) else str(value) for value in values
    )
    text = f"coalesce({column} NOT IN ({listed}), true)"
    # DuckDB ends a statement at a NUL.
    return text if len(text) <= MOST_CHARACTERS and "\0" not in text else None


def row_tails(scores: np.ndarray) -> np.ndarray:
    """(N,) float64 tails of normal scores among ordinary rows; NaN stays."""
    different, places = np.unique(scores, return_inverse=True)
    tails = [math.nan if math.isnan(s) else math.exp(log_tail(s)) for s in different.tolist()]
    return np.array(tails, np.float64)[places]
