"""Tokens of captions in time that their length bounds.

open_clip's own tokenizer splits a whole caption before it keeps the first tokens, and a word of N
characters takes time in proportion to N squared: 64 s for a word of 1 MB.  Here it stops at the
tokens that are kept, and of a word it takes no more characters than fill them.
"""

from collections.abc import Sequence
from typing import Any

import torch

# Characters of a word that are looked at first, and again twice as many until there are enough.
_FIRST_CUT = 1024
# Merges further right can move a boundary between tokens to their left, a few tokens in all known
# vocabularies; so many tokens of a word behind the last one that is kept are looked at too.
_MARGIN = 64
# Words whose tokens are remembered; open_clip forgets none.
_MAX_CACHED_WORDS = 1 << 18


class _WordCache(dict[str, str]):
    """Takes no more words when it is full; threads may share it."""

    def __setitem__(self, word: str, tokens: str) -> None:
        if len(self) < _MAX_CACHED_WORDS:
            super().__setitem__(word, tokens)


class BoundedTokenizer:
    """Gives the tokens of open_clip's `SimpleTokenizer`, without looking at what it cuts away."""

    def __init__(self, tokenizer: Any) -> None:
        """Use the vocabulary of a `SimpleTokenizer` that cuts captions at their end."""
        self._tokenizer = tokenizer
        self._tokenizer.cache = _WordCache(tokenizer.cache)
        self.context_length: int = self._tokenizer.context_length

    def __call__(self, texts: Sequence[str], context_length: int | None = None) -> torch.Tensor:
        """Return (B, context length) int64 token ids."""
        length = context_length or self.context_length
        tokens = torch.zeros(len(texts), length, dtype=torch.long)
        start, end = self._tokenizer.sot_token_id, self._tokenizer.eot_token_id
        for row, text in enumerate(texts):
            ids = [start, *self._encode(text, length - 1), end]
            if len(ids) > length:
                ids = [*ids[: length - 1], end]
            tokens[row, : len(ids)] = torch.tensor(ids)
        return tokens

    def _encode(self, text: str, most: int) -> list[int]:
        """Return the first tokens of a text, at least `most` if it has as many."""
        parts = self._tokenizer
        ids: list[int] = []
        for match in parts.pat.finditer(parts.clean_fn(text)):
            if len(ids) >= most:
                break
            word = "".join(map(parts.byte_encoder.__getitem__, match.group().encode("utf-8")))
            ids += map(parts.encoder.__getitem__, self._split(word, most))
        return ids

    def _split(self, word: str, most: int) -> list[str]:
        """Return the first tokens of a word, at least `most` if it has as many."""
        length = _FIRST_CUT
        while True:
            tokens: list[str] = self._tokenizer.bpe(word[:length]).split(" ")
            if length >= len(word) or len(tokens) >= most + _MARGIN:
                return tokens
            length *= 2
