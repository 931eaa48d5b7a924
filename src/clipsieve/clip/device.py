"""Which device computes, in which number format, decided once and never silently.

A GPU that is in the machine but cannot be used is an error, not a reason to use the CPU.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from clipsieve.cores import cores
from clipsieve.errors import DeviceError, UsageError

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

#: bfloat16 must beat float32 on a CPU by this factor to be chosen: it costs three digits.
WORTHWHILE = 1.2


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """What was found: the device, in words, and whether a GPU is present."""

    device: torch.device
    name: str


def gpu_present() -> str | None:
    """How an NVIDIA GPU shows itself on this machine, or None if there is none.

    `CUDA_VISIBLE_DEVICES` set to nothing or -1 hides all GPUs on purpose, and counts as none.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return None
    for sign in ("/proc/driver/nvidia/gpus", "/dev/nvidia0", "/dev/dxg"):
        path = Path(sign)
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            return sign
    return None


def resolve_device(wanted: str) -> DeviceReport:
    """The device for `wanted`: `auto`, `cpu`, `cuda` or `cuda:N`.

    `auto` is the first GPU if there is one, else the CPU.

    Raises:
      UsageError: for another word.
      DeviceError: if a GPU is asked for and missing, or present and unusable.
    """
    if wanted == "cpu":
        return DeviceReport(torch.device("cpu"), _cpu_name())
    if not re.fullmatch(r"auto|cuda(:\d+)?", wanted):
        raise UsageError(f"device {wanted!r} is not known; choose auto, cpu, cuda or cuda:N")
    usable = torch.cuda.is_available()
    if wanted == "auto" and not usable:
        sign = gpu_present()
        if sign is not None:
            raise DeviceError(
                f"a GPU is present ({sign}) but torch {torch.__version__} cannot use it: "
                f"{_why_no_cuda()}; fix the driver or the torch build, or say --device cpu"
            )
        return DeviceReport(torch.device("cpu"), _cpu_name())
    if not usable:
        raise DeviceError(
            f"device {wanted!r} was asked for, but torch {torch.__version__} finds no usable GPU: "
            f"{_why_no_cuda()}; fix that, or say --device cpu"
        )
    device = torch.device("cuda:0" if wanted in ("auto", "cuda") else wanted)
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise DeviceError(
            f"device {wanted!r} does not exist; this machine has {torch.cuda.device_count()} GPUs, "
            "numbered from cuda:0"
        )
    try:
        torch.ones(8, device=device).sum().item()
    except RuntimeError as error:
        raise DeviceError(
            f"device {device} is present but a first sum on it failed: {error}; "
            "free it, fix the driver, or say --device cpu"
        ) from error
    return DeviceReport(device, torch.cuda.get_device_name(device))


def limit_threads() -> None:
    """Let torch compute on no more cores than this process may use; torch knows no quotas."""
    if torch.get_num_threads() > cores():
        torch.set_num_threads(cores())


def candidate_dtypes(device: torch.device) -> tuple[str, ...]:
    """Number formats worth trying on `device`, the most exact first.

    On a CPU bfloat16 is a candidate only where the processor multiplies it in hardware (AMX or
    AVX512-BF16); whether it then is faster is measured on the model itself.
    """
    if device.type == "cuda":
        major, _ = torch.cuda.get_device_capability(device)
        return ("bfloat16",) if major >= 8 else ("float16",)
    return ("float32", "bfloat16") if cpu_bfloat16_units() else ("float32",)


def cpu_bfloat16_units() -> tuple[str, ...]:
    """Hardware bfloat16 multipliers of this CPU: of `amx_bf16`, `avx512_bf16`, `sve_bf16`.

    Empty where the system does not tell (only Linux does).
    """
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ()
    flags = {
        word
        for line in text.splitlines()
        if line[:5] in ("flags", "Featu")
        for word in line.split()
    }
    known = {"amx_bf16": "amx_bf16", "avx512_bf16": "avx512_bf16", "svebf16": "sve_bf16"}
    return tuple(name for flag, name in known.items() if flag in flags)


def _cpu_name() -> str:
    """The processor's own name, if the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "CPU"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "CPU"


def _why_no_cuda() -> str:
    """The reason torch has no GPU, as far as it can be told."""
    if torch.version.cuda is None:
        return "this torch was built without CUDA"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return "torch.cuda.is_available() is false"
