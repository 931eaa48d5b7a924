"""What this machine computes with, what would be slow, and how to fix it."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from clipsieve import versions
from clipsieve.clip.device import cpu_bfloat16_units, resolve_device
from clipsieve.clip.identity import TINY
from clipsieve.clip.open import open_model
from clipsieve.cores import machine_cores, usable_cores
from clipsieve.errors import ClipsieveError

GOOD, SLOW, BAD = "ok", "slow", "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report: what was looked at, what was found, how good that is, the cure."""

    subject: str
    found: str
    grade: str = GOOD
    cure: str = ""


def examine(
    device: str = "auto", model: str = TINY, pretrained: str | None = None
) -> Iterator[Finding]:
    """Look at device, number format, decoder, model and caches; yields findings as they come."""
    try:
        report = resolve_device(device)
    except ClipsieveError as error:
        yield Finding("device", str(error), BAD)
        return
    if report.device.type == "cpu":
        yield Finding(
            "device",
            f"cpu, {report.name}",
            SLOW,
            "a GPU is far faster from ViT-B up",
        )
        units = cpu_bfloat16_units()
        if units:
            yield Finding("bfloat16", f"in hardware ({', '.join(units)})")
        else:
            yield Finding("bfloat16", "not in hardware", SLOW, "float32 is used; AMX CPUs are 3-5x")
    else:
        free, total = torch.cuda.mem_get_info(report.device)
        yield Finding("device", f"{report.device}, {report.name}")
        yield Finding("memory", f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free")
    try:
        loaded = open_model(model, pretrained, device, "auto")
    except ClipsieveError as error:
        yield Finding("model", str(error), BAD)
    else:
        identity = loaded.identity
        what = f"{identity.model} in {identity.dtype}, weights {identity.weights_sha256[:12]}"
        yield Finding("model", "; ".join([what, *loaded.notes]))
    yield from _cores()
    cache = os.environ.get("HF_HOME", os.path.expanduser("~/.cache/huggingface"))
    state = "exists" if os.path.isdir(cache) else "does not exist yet"
    offline = os.environ.get("HF_HUB_OFFLINE") == "1"
    yield Finding("model cache", f"{cache} {state}{', offline' if offline else ''}")
    room = shutil.disk_usage(".").free / 2**30
    low = room < 5
    yield Finding(
        "disk", f"{room:.0f} GiB free here", SLOW if low else GOOD, "free some" if low else ""
    )
    for name, version in versions.installed().items():
        yield Finding(name.replace("_", " "), version)


def _cores() -> Iterator[Finding]:
    """Decoding needs cores; a limit below the machine's count is easy to miss."""
    cores, usable = machine_cores(), usable_cores()
    if usable < cores:
        cure = "raise the process's CPU affinity, or its control group's CPU quota"
        yield Finding("cores", f"{usable} of {cores} usable", SLOW, cure)
    else:
        yield Finding("cores", str(cores))
    threads = torch.get_num_threads()
    if threads < usable:
        yield Finding(
            "torch threads", f"{threads} on {usable} cores", SLOW, "unset OMP_NUM_THREADS"
        )
