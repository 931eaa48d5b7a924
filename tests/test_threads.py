"""Parts of a shard in threads: order, errors, and results that do not depend on their number."""

import threading
import time

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from clipsieve.cores import cores
from clipsieve.threads import map_parts, read_ahead


def blas_threads():
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


@pytest.mark.parametrize("threads", ["1", "2", "5"])
def test_results_are_in_the_order_of_the_parts(monkeypatch, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)

    def slow_at_first(part):
        time.sleep(0.02 if part < 2 else 0.0)
        return part * part

    assert map_parts(slow_at_first, iter(range(20))) == [part * part for part in range(20)]
    assert map_parts(slow_at_first, []) == []


@pytest.mark.parametrize("threads", [1, 3])
def test_as_many_parts_are_worked_on_at_once_as_there_are_cores(monkeypatch, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    together = threading.Barrier(threads)

    def meet(_):
        together.wait(timeout=20)  # breaks unless so many parts are in hand
        return threading.get_ident()

    used = set(map_parts(meet, range(3 * threads)))
    assert len(used) == threads
    assert (threading.get_ident() in used) == (threads == 1)


@pytest.mark.parametrize("threads", ["1", "4"])
def test_the_error_of_the_first_part_is_raised_and_the_limit_is_gone(monkeypatch, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    before = blas_threads()

    def fail(part):
        if part == 1:
            time.sleep(0.05)  # later than that of part 2
        if part in (1, 2):
            raise ValueError(f"part {part}")
        return part

    with pytest.raises(ValueError, match=r"^part 1$"):
        map_parts(fail, range(6))
    assert blas_threads() == before


def test_products_have_the_same_bits_for_any_number_of_threads(monkeypatch):
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(1000, 512)), rng.normal(size=(512, 300))
    parts = [slice(first, first + 256) for first in range(0, 1000, 256)]

    def products(part):
        return left[part] @ right, left[part].T @ left[part], left[part].sum(axis=0)

    def results(threads):
        monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
        return map_parts(products, parts)

    one = results(1)
    assert np.allclose(np.concatenate([product for product, _, _ in one]), left @ right)
    for threads in (2, 3, 8):
        for mine, other in zip(one, results(threads), strict=True):
            assert [a.tobytes() for a in mine] == [b.tobytes() for b in other]


@pytest.mark.parametrize("threads", ["1", "3"])
def test_products_of_a_part_run_on_one_core_and_on_all_again_afterwards(monkeypatch, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    with threadpool_limits(limits=2, user_api="blas"):  # also where there is one core
        before = blas_threads()
        assert before == {2}
        assert map_parts(lambda _: blas_threads(), range(4)) == [{1}] * 4
        assert blas_threads() == before


@pytest.mark.parametrize(("share", "expected"), [("3", 3), ("12", 12)])
def test_the_share_of_a_worker_process_is_what_it_was_given(monkeypatch, share, expected):
    monkeypatch.setenv("OMP_NUM_THREADS", share)
    assert cores() == expected


@pytest.mark.parametrize("share", [None, "", "0", "many", "-2", "2,4"])
def test_without_a_number_it_is_every_core_of_the_process(monkeypatch, share):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    every = cores()
    assert every >= 1
    if share is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", share)
    assert cores() == every


@pytest.mark.parametrize("ahead", [0, 1, 8])
def test_what_is_read_ahead_comes_in_order_and_no_further_than_that(ahead):
    begun = []

    def read(part):
        begun.append(part)
        return part * part

    taken = []
    for value in read_ahead(read, iter(range(20)), ahead):
        taken.append(value)
        assert len(begun) <= len(taken) + ahead
    assert taken == [part * part for part in range(20)]


@pytest.mark.parametrize("ahead", [0, 3])
def test_an_error_of_reading_ahead_comes_in_its_place(ahead):
    def read(part):
        if part == 2:
            raise ValueError("two")
        return part

    values = read_ahead(read, range(20), ahead)
    assert [next(values), next(values)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(values)
