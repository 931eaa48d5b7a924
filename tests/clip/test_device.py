"""The device asked for, or an error that says why not."""

import pytest
import torch

from clipsieve.clip.device import candidate_dtypes, cpu_bfloat16_units, gpu_present, resolve_device
from clipsieve.errors import DeviceError, UsageError

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def test_cpu_is_the_cpu_and_has_a_name():
    report = resolve_device("cpu")
    assert report.device == torch.device("cpu")
    assert report.name


@pytest.mark.parametrize("word", ["gpu", "", "CUDA", "mps", "cpu:0", "cuda1"])
def test_unknown_device_is_refused(word):
    with pytest.raises(UsageError, match="is not known; choose auto, cpu, cuda or cuda:N"):
        resolve_device(word)


@needs_no_gpu
@pytest.mark.parametrize("word", ["cuda", "cuda:0", "cuda:7"])
def test_missing_gpu_is_an_error_with_a_reason(word):
    with pytest.raises(DeviceError, match=f"{word}' was asked for, .*; fix that, or say --device"):
        resolve_device(word)


@pytest.mark.parametrize("word", ["cuda:x", "cuda:", "cuda:-1"])
def test_gpu_that_is_no_number_is_refused(word):
    with pytest.raises(UsageError, match="is not known"):
        resolve_device(word)


@needs_no_gpu
@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_gpus_count_as_none(monkeypatch, hidden):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert gpu_present() is None
    assert resolve_device("auto").device.type == "cpu"


def test_cpu_formats_begin_with_the_exact_one():
    formats = candidate_dtypes(torch.device("cpu"))
    assert formats[0] == "float32"
    assert ("bfloat16" in formats) == bool(cpu_bfloat16_units())
