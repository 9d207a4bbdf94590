"""A pseudo-random number for every coordinate, fixed by seed, use, tensor name and position alone.

Ties and random masks are decided by it, so neither the order of tensors nor the way a checkpoint
is sharded can change a mask. Each use has numbers of its own: a random control must not lean for or
against the ties of the mask that it is compared with.
"""

from __future__ import annotations

import hashlib

import numpy as np

_BLOCK = 1 << 16
"""Positions hashed at once: their numbers stay in a core's cache."""


def keys(use: str, name: str, start: int, stop: int, seed: int) -> np.ndarray:
    """Return the keys of the positions start…stop of a tensor: uint32 (stop - start,).

    32 bits, since those are hashed several at a time: lowbias32 (Wellons 2018), its input and middle
    mixed with 64 bits of the name's own. No two of the first 2³² positions of a tensor share a key.
    `start` and `stop` must lie in the same 2³² positions, as the ends of a piece do.
    """
    return keys_at(use, name, start, np.arange(stop - start, dtype=np.uint32), seed)


def keys_at(use: str, name: str, start: int, offsets: np.ndarray, seed: int) -> np.ndarray:
    """Return the keys of the positions start + offsets (m,) of a tensor: uint32 (m,)."""
    content = f"{use}:{seed}:{start >> 32}:{name}".encode()
    first, second = np.frombuffer(hashlib.blake2b(content, digest_size=8).digest(), dtype="<u4")
    mixed = offsets.astype(np.uint32)
    begin = np.uint32(start & 0xFFFFFFFF)
    for block in range(0, len(mixed), _BLOCK):
        _mix(mixed[block : block + _BLOCK], begin, first, second)
    return mixed


def _mix(mixed: np.ndarray, begin: np.uint32, first: np.uint32, second: np.uint32) -> None:
    """Hash uint32 in place."""
    shifted = np.empty_like(mixed)

    def fold(bits: int) -> None:
        np.right_shift(mixed, np.uint32(bits), out=shifted)
        np.bitwise_xor(mixed, shifted, out=mixed)

    np.add(mixed, begin, out=mixed)
    np.bitwise_xor(mixed, first, out=mixed)
    fold(16)
    np.multiply(mixed, np.uint32(0x7FEB352D), out=mixed)
    np.add(mixed, second, out=mixed)
    fold(15)
    np.multiply(mixed, np.uint32(0x846CA68B), out=mixed)
    fold(16)


def uniform(use: str, name: str, start: int, stop: int, seed: int) -> np.ndarray:
    """Return float32 (stop - start,) in [0, 1), multiples of 2⁻²⁴."""
    drawn = keys(use, name, start, stop, seed)
    drawn >>= np.uint32(8)
    return drawn.astype(np.float32) * np.float32(2**-24)
