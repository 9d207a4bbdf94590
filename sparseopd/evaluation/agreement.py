"""How many parameters of two checkpoints agree, read one tensor at a time."""

from __future__ import annotations

import torch

from sparseopd.pairs import Tensors

TOLERANCES = (1e-5, 1e-4)


def agreement(left: Tensors, right: Tensors) -> dict[str, float] | None:
    """Return the share of all coordinates with |left - right| within each tolerance.

    Values are compared in fp32. The keys are "1e-05" and "1e-04". None for models of different
    architecture, whose coordinates do not correspond.
    """
    names = left.keys()
    if names != right.keys() or any(left.shape(name) != right.shape(name) for name in names):
        return None
    close, total = dict.fromkeys(TOLERANCES, 0), 0
    for name in names:
        apart = (left[name].to("cpu", torch.float32) - right[name].to("cpu", torch.float32)).abs_()
        total += apart.numel()
        for tolerance in TOLERANCES:
            close[tolerance] += int((apart <= tolerance).sum())
    return {f"{tolerance:.0e}": count / total for tolerance, count in close.items()}
