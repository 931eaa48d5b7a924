"""Tables in large pages are tensors like others."""

import gc

import pytest
import torch

from clipsieve.neighbours.pages import LARGE, empty_table


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(0, 4), (7,), (LARGE // 2, 3), (LARGE + 1,)])
def test_a_table_holds_what_is_written(shape, dtype):
    table = empty_table(shape, dtype, torch.device("cpu"))
    assert (table.shape, table.dtype, table.is_contiguous()) == (shape, dtype, True)
    table.fill_(3.0)
    assert (table == 3).all()
    if table.numel() * dtype.itemsize >= LARGE:
        assert table.data_ptr() % LARGE == 0


def test_a_view_keeps_the_memory():
    last = empty_table((LARGE,), torch.float32, torch.device("cpu")).fill_(5.0)[-1:]
    gc.collect()
    assert last.item() == 5.0
