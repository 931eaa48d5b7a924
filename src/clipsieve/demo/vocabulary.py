"""Cut CLIP's 48,894 BPE merges down to those that the demo captions need.

Token ids change, token strings do not: on the captions it was cut for, the small tokenizer
splits exactly as the full one.  Other text still encodes, in smaller pieces.
"""

import gzip
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

VOCABULARY_SIZE = 1536
# One token for each byte, one for each byte that ends a word, start and end of text.
_FIXED_TOKENS = 2 * 256 + 2

Merge = tuple[str, str]


class BpeTokenizer(Protocol):
    """The parts of a CLIP tokenizer that are read here."""

    byte_encoder: Mapping[int, str]
    bpe_ranks: Mapping[Merge, int]
    decoder: Mapping[int, str]
    pat: re.Pattern[str]

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        ...


def merges_of(symbols: Sequence[str], ranks: Mapping[Merge, int]) -> set[Merge]:
    """The merges that BPE applies, best rank first, to one word.

    >>> ranks = {("c", "a"): 0, ("ca", "t</w>"): 1, ("a", "t</w>"): 2}
    >>> sorted(merges_of(["c", "a", "t</w>"], ranks))
    [('c', 'a'), ('ca', 't</w>')]
    """
    applied: set[Merge] = set()
    word = list(symbols)
    while True:
        known = [pair for pair in itertools.pairwise(word) if pair in ranks]
        if not known:
            return applied
        best = min(known, key=ranks.__getitem__)
        applied.add(best)
        merged: list[str] = []
        position = 0
        while position < len(word):
            if tuple(word[position : position + 2]) == best:
                merged.append("".join(best))
                position += 2
            else:
                merged.append(word[position])
                position += 1
        word = merged


def trim_merges(tokenizer: BpeTokenizer, texts: Iterable[str]) -> list[Merge]:
    """The merges the texts need, filled up with the most frequent others, in rank order.

    Returns:
      1,022 merges, which make a vocabulary of 1,536 tokens.

    Raises:
      ValueError: if the texts need more merges than that.
    """
    ranks = tokenizer.bpe_ranks
    needed: set[Merge] = set()
    for word in {word for text in texts for word in tokenizer.pat.findall(text.lower())}:
        symbols = [tokenizer.byte_encoder[byte] for byte in word.encode()]
        needed |= merges_of([*symbols[:-1], symbols[-1] + "</w>"], ranks)
    room = VOCABULARY_SIZE - _FIXED_TOKENS
    if len(needed) > room:
        raise ValueError(
            f"the texts need {len(needed)} merges but the vocabulary has room for {room}: "
            "use fewer words or raise VOCABULARY_SIZE"
        )
    others = [merge for merge in sorted(ranks, key=ranks.__getitem__) if merge not in needed]
    return sorted([*needed, *others[: room - len(needed)]], key=ranks.__getitem__)


def write_merges(path: Path, merges: Sequence[Merge]) -> None:
    """Write merges in the gzip form that CLIP tokenizers read; equal merges give equal bytes."""
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    path.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))


def check_same_tokens(small: BpeTokenizer, full: BpeTokenizer, texts: Iterable[str]) -> None:
    """Check that two tokenizers split texts into the same strings.

    Raises:
      ValueError: with the first text they split differently.
    """
    for text in texts:
        ours = [small.decoder[token] for token in small.encode(text)]
        theirs = [full.decoder[token] for token in full.encode(text)]
        if ours != theirs:
            raise ValueError(
                f"the trimmed vocabulary splits {text!r} into {ours}, the full one into {theirs}: "
                "trim it for texts that include this one"
            )
