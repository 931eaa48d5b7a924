r"""DataComp's text-based filter: whether a caption has a word of a given set.

Gadre et al., arXiv:2304.14108, the baseline "text-based filtering".  The released code splits a
caption at whitespace and looks up the first WordNet synset of each token; the caption passes if the
synset's offset is that of an ImageNet-21k class, whatever the part of speech.  Here a file holds
the tokens for which that is so.  With NLTK, its WordNet, the set of offsets, and the captions of an
output folder `out`, this makes one:

    import clipsieve
    from nltk.corpus import wordnet
    captions = clipsieve.connect("out").sql("SELECT DISTINCT caption FROM samples").fetchall()
    tokens = {token for (caption,) in captions if caption for token in caption.split()}
    synsets = {token: wordnet.synsets(token) for token in tokens}
    words = sorted(token for token, each in synsets.items() if each and each[0].offset() in offsets)
    open("words.txt", "w", encoding="utf-8").write("\n".join(words))

Tokens are taken as they are, punctuation and case included: "dog," is another token than "dog".
The filter of DataComp also wants English, which is a matter of a language column.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from clipsieve.definitions import shown
from clipsieve.errors import UsageError
from clipsieve.scorers.base import Arrays, Context, Input, PairBatch, Scorer, score_column
from clipsieve.scorers.option_file import OptionFile


class TextWords(Scorer):
    """Whether any token of a caption is in a file of words; NULL where there is no caption."""

    name, family = "datacomp.text_words", "datacomp"
    needs = frozenset({Input.CAPTION})
    columns = pa.schema(
        [
            score_column(
                "caption_has_word",
                "whether a token of the caption, split at whitespace, is in the file of words",
                "true is kept",
                "true or false",
                "arXiv:2304.14108, text-based filtering",
                pa.bool_(),
            )
        ]
    )

    def __init__(self, words: str | Mapping[str, str] | None = None) -> None:
        """Make a scorer; every worker reads the file.

        Args:
          words: UTF-8 text with one word a line; blanks around a word and blank lines are left out.

        Raises:
          UsageError: without a file.
        """
        self._words = OptionFile.from_value(self.name, "words", words, "a file of words")

    def parameters(self) -> Mapping[str, Any]:
        """Return the hash of the file.

        Raises:
          UsageError: if it cannot be read.
        """
        return {"words": self._words.digest()}

    def load(self, known: Arrays, context: Context) -> frozenset[str]:
        """Return the words.

        Raises:
          UsageError: if the file cannot be read, has changed, is no UTF-8 text, holds no word, or a
            line with a blank inside, which no token can be.
        """
        return read_words(self._words)

    def score(self, batch: PairBatch, loaded: Any) -> Mapping[str, np.ndarray]:
        """One column; None without caption."""
        values = [has_word(caption, loaded) for caption in batch.captions]
        return {"caption_has_word": np.array(values, object)}


def has_word(caption: str | None, words: frozenset[str]) -> bool | None:
    """Return whether a token of a caption is among the words; None without caption.

    >>> has_word("a dog, a cat", frozenset({"dog"})), has_word("a dog", frozenset({"dog"}))
    (False, True)
    """
    return None if caption is None else not words.isdisjoint(caption.split())


def read_words(file: OptionFile) -> frozenset[str]:
    """Return the words of a file, one a line; raises as `TextWords.load`."""
    try:
        text = file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file.path} is not UTF-8 text ({error}); save it as UTF-8") from error
    words = set()
    for number, line in enumerate(text.split("\n"), 1):
        tokens = line.split()
        if len(tokens) > 1:
            raise UsageError(
                f"line {number} of {file.path}, {shown(line)}, holds {len(tokens)} words, and a "
                "caption is split at blanks; give one word a line"
            )
        words.update(tokens)
    if not words:
        raise UsageError(f"{file.path} holds no word; give one word a line")
    return frozenset(words)
