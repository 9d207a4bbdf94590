"""A pseudo-random number for every coordinate, fixed by seed, use, tensor name and position alone.

Ties and random masks are decided by it, so neither the order of tensors nor the way a checkpoint
is sharded can change a mask. Each use has numbers of its own: a random control must not lean for or
against the ties of the mask that it is compared with.
"""

from __future__ import annotations

import hashlib

import numpy as np


def keys(use: str, name: str, positions: np.ndarray, seed: int) -> np.ndarray:
    """Hash flat positions (m,) to uint64 (m,): splitmix64 (Steele et al. 2014), started anew by name.

    Within one tensor no two positions share a key.
    """
    start = hashlib.blake2b(f"{use}:{seed}:{name}".encode(), digest_size=8).digest()
    mixed = positions.astype(np.uint64)
    shifted = np.empty_like(mixed)
    with np.errstate(over="ignore"):
        mixed *= np.uint64(0x9E3779B97F4A7C15)
        mixed += np.uint64(int.from_bytes(start, "little"))
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            np.right_shift(mixed, np.uint64(shift), out=shifted)
            mixed ^= shifted
            mixed *= np.uint64(factor)
        np.right_shift(mixed, np.uint64(31), out=shifted)
        mixed ^= shifted
    return mixed


def uniform(use: str, name: str, start: int, stop: int, seed: int) -> np.ndarray:
    """Return float32 (stop - start,) in [0, 1), multiples of 2⁻²⁴."""
    drawn = keys(use, name, np.arange(start, stop), seed)
    drawn >>= np.uint64(40)
    return drawn.astype(np.float32) * np.float32(2**-24)
