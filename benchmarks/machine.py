"""What a benchmark says of the machine it ran on, and of its own memory (Linux)."""

from __future__ import annotations

import gc
import os
import platform
from pathlib import Path


def described() -> str:
    """Return the machine in words."""
    import torch  # not before the allocator's environment is set

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{os.cpu_count()} CPU cores, {platform.machine()}, {gpu}"


def settled() -> int:
    """Return the bytes that are resident once garbage is collected."""
    gc.collect()
    return resident("VmRSS")


def resident(field: str) -> int:
    """Return a size of this process in bytes: VmRSS is what is resident now, VmHWM the most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def forget_peak() -> None:
    """Make VmHWM begin anew at what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
