"""Bytes of optimizer state."""

from __future__ import annotations

from collections.abc import Sequence

from sparseopd.settings.optimizer import Optimizer

BLOCK = 256
"""Coordinates that share a float32 scale in an 8-bit state (bitsandbytes 0.50)."""


def state_bytes(optimizer: Optimizer, count: int, shape: Sequence[int] | None) -> int:
    """Return the bytes of state of one parameter's `count` coordinates.

    adam and adamw keep two float32 moments, their 8-bit kinds two bytes and scales, sgd one float32
    moment if it has momentum. Adafactor keeps a row and a column of a matrix, and a whole vector.

    Args:
        shape: of the parameter; None for a k-vector.
    """
    if optimizer.name.endswith("8bit"):
        return 2 * count + 2 * 4 * -(-count // BLOCK)
    if optimizer.name == "sgd":
        return 4 * count if optimizer.momentum else 0
    if optimizer.name == "adafactor":
        if shape is None or len(shape) < 2:
            return 4 * count
        matrices = count // (shape[-1] * shape[-2])
        return 4 * matrices * (shape[-1] + shape[-2])
    return 8 * count
