"""Groups of clusters that fit into a pass, and what does not."""

import numpy as np
import pytest

from clipsieve.errors import UsageError
from clipsieve.scorers.cluster_passes import MOST_GROUPS, PassLimit

#: 1,072 bytes a row of 118 components: 978 rows in a MiB.
LIMIT = PassLimit("a", 1, 118)


def test_rows_of_a_pass_are_those_whose_vectors_fit_twice():
    assert LIMIT.rows == 978
    assert PassLimit("a", 2048, 512).rows == (2 << 30) // (2 * 4 * 512 + 128)


@pytest.mark.parametrize(
    ("counts", "first", "ends"),
    [
        ([500, 478, 1, 977], 0, [2, 4]),
        ([500, 479, 1], 0, [1, 3]),
        ([978, 978], 0, [1, 2]),
        ([0, 0, 5], 0, [3]),
        ([978, 0, 0, 1], 0, [3, 4]),
        ([5, 978, 5, 5], 2, [4]),
        ([2000, 1], 0, [1, 2]),
    ],
)
def test_groups_take_clusters_as_long_as_they_fit(counts, first, ends):
    assert LIMIT.group_ends(np.array(counts), first) == ends


def test_what_fits_is_accepted():
    LIMIT.check_rows(978 * MOST_GROUPS)
    LIMIT.check_counts(np.full(MOST_GROUPS, 978))


def test_too_many_rows_are_refused_with_the_memory_that_is_enough():
    rows = 978 * MOST_GROUPS + 1
    message = f"scorer a learns of {rows} rows, and {rows - 1} fit into 60 passes of 1 MiB; set opt"
    with pytest.raises(UsageError, match=message + "ion memory_mib to 2 or more"):
        LIMIT.check_rows(rows)
    PassLimit("a", 2, 118).check_rows(rows)


def test_a_cluster_over_a_pass_is_refused_with_the_memory_that_is_enough():
    with pytest.raises(UsageError, match=r"a cluster of 2000 rows, .* memory_mib to 3 or more,"):
        LIMIT.check_counts(np.array([3, 2000]))
    PassLimit("a", 3, 118).check_counts(np.array([3, 2000]))


def test_clusters_for_too_many_passes_are_refused_with_the_memory_that_is_enough():
    counts = np.full(MOST_GROUPS + 1, 500)
    with pytest.raises(UsageError, match=r"clusters for 61 passes of 978 rows.* memory_mib to 2"):
        LIMIT.check_counts(counts)
    PassLimit("a", 2, 118).check_counts(counts)
