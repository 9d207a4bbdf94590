"""The disk that a run needs, and what is free."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from sparseopd.feasibility.findings import Finding
from sparseopd.feasibility.optimizers import state_bytes
from sparseopd.feasibility.plan import BYTES, Plan
from sparseopd.feasibility.sizes import readable
from sparseopd.feasibility.subject import Subject

CODED_BELOW = 0.03
"""Density under which a mask file stores gaps; above, a bit a coordinate."""


@dataclass(frozen=True)
class Disk:
    """What a run writes, in bytes by item, and what is free where it would."""

    items: dict[str, int]
    free: int

    @property
    def needed(self) -> int:
        """Return the bytes of all items."""
        return sum(self.items.values())


def find_disk(subject: Subject) -> Disk | None:
    """Return what the run writes; None where the student is not known."""
    plan, recipe = subject.plan, subject.recipe
    if plan is None or subject.student is None:
        return None
    stored = str(subject.student.config.dtype or "float32").removeprefix("torch.")
    each = BYTES.get(stored, 4) if recipe.train.save_dtype == "source" else 4
    numel = plan.student.parameters
    state = BYTES[plan.dtype] * numel + _optimizer(plan)
    # The new state is whole before the old one goes; without save_every an interrupt writes one.
    items = {
        "checkpoint": each * numel,
        "states to resume from": state * (2 if recipe.train.save_every else 1),
    }
    snapshots = len(set(recipe.train.snapshots))
    if snapshots:
        items["snapshots"] = snapshots * each * numel
    if plan.masked is not None:
        items["mask"] = mask_bytes(numel, plan.k)
    return Disk(items, shutil.disk_usage(_existing(subject.request.output)).free)


def check_disk(subject: Subject) -> list[Finding]:
    """Refuse a run that writes more than is free."""
    disk = find_disk(subject)
    if disk is None:
        return [Finding("unknown", "disk", "not checked: it depends on the size of the student")]
    said = f"the run writes up to {readable(disk.needed)} and {readable(disk.free)} are free"
    if disk.needed > disk.free:
        return [
            Finding("error", "disk", f"{said}: free some space, or give another folder with -o")
        ]
    return [Finding("ok", "disk", said)]


def mask_bytes(numel: int, k: int) -> int:
    """Return about what a mask file takes: bits, or coded gaps near the entropy of a sparse mask."""
    density = k / numel
    if not 0 < density < CODED_BELOW:
        return -(-numel // 8)
    entropy = -density * math.log2(density) - (1 - density) * math.log2(1 - density)
    return int(1.05 * numel * entropy / 8)


def _optimizer(plan: Plan) -> int:
    shapes = {name: weight.shape for name, weight in plan.student.model.named_parameters()}
    masked = plan.masked is not None
    state = sum(
        state_bytes(plan.optimizer, k, None if masked else shapes[name])
        for name, k in plan.trained.items()
    )
    return state + (4 * plan.k if masked else 0)


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    where = folder.expanduser().absolute()
    while not where.exists():
        where = where.parent
    return where
