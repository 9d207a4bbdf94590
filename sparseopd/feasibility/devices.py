"""How much memory the device that trains has."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from sparseopd.errors import PairError
from sparseopd.feasibility.sizes import readable
from sparseopd.pairs import pick_device

CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Where Linux says how much memory a container may use (cgroup v2, v1)."""


@dataclass(frozen=True)
class Device:
    """The device of a run and its memory."""

    kind: str
    """cpu, cuda, mps or xpu."""
    bytes: int
    label: str
    """What to call it in a sentence."""
    bfloat16: bool
    """Whether training computes in bfloat16 there unless told otherwise."""
    planned: bool = False
    """Whether it was described by the user, and is not this machine's."""


def find_device(name: str | None, memory: int | None = None) -> Device:
    """Return the device a recipe names, or the one torch finds; with `memory`, one of that size.

    Raises `PairError` for a device that this machine does not have.
    """
    if memory is not None:
        kind = name or "cuda"
        return Device(kind, memory, f"{kind} with {readable(memory)}", kind == "cuda", planned=True)
    try:
        device = pick_device(name)
    except PairError as error:
        raise PairError(f"{error}, or plan for another machine with --memory 24GiB") from error
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info()
        label = f"{torch.cuda.get_device_name()} with {readable(free)} free"
        return Device("cuda", free, label, torch.cuda.is_bf16_supported())
    if device.type == "xpu":
        free, _ = torch.xpu.mem_get_info()
        return Device("xpu", free, f"xpu with {readable(free)} free", False)
    if device.type == "mps":
        size = torch.mps.recommended_max_memory()
        return Device("mps", size, f"mps with {readable(size)}", False)
    size = main_memory()
    return Device("cpu", size, f"this machine's {readable(size)}", False)


def main_memory() -> int:
    """Return the bytes of main memory, or what this container may use of it."""
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([size, *(limit for file in CGROUP_LIMITS if (limit := _limit(file)))])


def _limit(file: Path) -> int | None:
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # "max" where there is none
