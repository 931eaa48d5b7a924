"""Run a CombineFn the ways that engines do: every split, order and tree must give one answer."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam

SEED = 0


def combined_every_way(combiner: beam.CombineFn, batches: Sequence[Any]) -> Iterator[Any]:
    """Results of combining `batches` in one go, one by one, in halves, shuffled, and as a tree.

    Raises:
      ValueError: for fewer than two batches, which leave nothing to split.
    """
    if len(batches) < 2:
        raise ValueError(f"two batches or more are needed to split them, got {len(batches)}")
    shuffled = random.Random(SEED).sample(list(batches), len(batches))
    for order in (list(batches), list(reversed(batches)), shuffled):
        for size in (len(order), 1, (len(order) + 1) // 2):
            parts = [order[at : at + size] for at in range(0, len(order), size)]
            accumulators = [_accumulated(combiner, part) for part in parts]
            yield combiner.extract_output(combiner.merge_accumulators(accumulators))
        empty = combiner.create_accumulator()
        tree = [empty, *(_accumulated(combiner, [batch]) for batch in order)]
        while len(tree) > 1:
            pairs = [tree[at : at + 2] for at in range(0, len(tree), 2)]
            tree = [combiner.compact(combiner.merge_accumulators(pair)) for pair in pairs]
        yield combiner.extract_output(tree[0])


def _accumulated(combiner: beam.CombineFn, batches: Sequence[Any]) -> Any:
    accumulator = combiner.create_accumulator()
    for batch in batches:
        accumulator = combiner.add_input(accumulator, batch)
    return accumulator
