"""A bitmap as few bytes: each block of coordinates as the smaller of its bits and its gaps.

Gap code (Rice 1979, for the geometric gaps of a random mask within 5 % of the entropy): of every gap,
the number of coordinates skipped before a chosen one, the lower b bits go into b bit planes, and the
rest is written in unary, as that many zeros and a one. Where most coordinates are chosen, the gaps are
those of the others. docs/mask-file.md has the bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from sparseopd.masks.bitmap import count_bits

BLOCK = 1 << 18
"""Coordinates a block covers, the last one of a tensor fewer."""
HEAD = struct.Struct("<BII")
"""A block's head: its code, the number of chosen coordinates, the bytes of its body."""
BITS = 255
"""Code of a bitmap; any other is b, plus `OTHERS` where the gaps are those of unchosen coordinates."""
OTHERS = 64


def blocks(numel: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of every block of a tensor."""
    for start in range(0, numel, BLOCK):
        yield start, min(start + BLOCK, numel)


def blocks_of(numel: int) -> int:
    """Return the number of blocks of a tensor."""
    return -(-numel // BLOCK)


def longest(numel: int) -> int:
    """Return the most bytes a payload can take."""
    return HEAD.size * blocks_of(numel) + (numel + 7) // 8


def encode(bits: np.ndarray, numel: int) -> np.ndarray:
    """Return the payload of a packed bitmap: uint8. The same bits always give the same payload."""
    parts = [_encode_block(bits[a // 8 : (b + 7) // 8], b - a) for a, b in blocks(numel)]
    return np.frombuffer(b"".join(parts), dtype=np.uint8)


@dataclass(frozen=True)
class _Coded:
    """A block as it lies in a payload."""

    start: int
    numel: int
    code: int
    count: int
    body: np.ndarray


def decode(payload: np.ndarray, numel: int) -> np.ndarray:
    """Return the packed bitmap of a payload: uint8 of (⌈numel / 8⌉,).

    Raises `ValueError` if the payload is not a packed bitmap of that size; besides the bitmap, nothing
    is allocated but a block's worth.
    """
    bits = np.zeros((numel + 7) // 8, dtype=np.uint8)
    for block in _coded(payload, numel):
        packed = _decode_block(block)
        bits[block.start // 8 : block.start // 8 + len(packed)] = packed
    return bits


def positions(payload: np.ndarray, numel: int) -> np.ndarray:
    """Return the chosen coordinates of a payload: int64 (m,), ascending.

    Quicker than to decode bits and look for the ones. Raises `ValueError` as `decode` does.
    """
    found = [np.zeros(0, dtype=np.int64)]
    for block in _coded(payload, numel):
        if block.code < OTHERS:
            where = _decode_gaps(block.body, block.code, block.count, block.numel)
        else:
            flags = np.unpackbits(_decode_block(block), count=block.numel, bitorder="little")
            where = np.flatnonzero(flags)
        found.append(where + block.start)
    return np.concatenate(found)


def cut(payload: np.ndarray, numel: int, size: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield (coordinates, chosen ones, payload) of stretches of `size` coordinates, in order.

    What is coded of a few blocks is a payload of its own; `size` is a multiple of `BLOCK`. Raises
    `ValueError` as `decode` does, but for what is wrong inside a block.
    """
    start = begin = end = chosen = 0
    for block in _coded(payload, numel):
        stop = block.start + block.numel
        chosen, end = chosen + block.count, end + HEAD.size + len(block.body)
        if stop % size == 0 or stop == numel:
            yield stop - start, chosen, payload[begin:end]
            start, begin, chosen = stop, end, 0


def _coded(payload: np.ndarray, numel: int) -> Iterator[_Coded]:
    at = 0
    for start, stop in blocks(numel):
        if len(payload) < at + HEAD.size:
            raise ValueError("a block is missing")
        code, count, size = HEAD.unpack_from(payload.data, at)
        at += HEAD.size
        if count > stop - start or size > (stop - start + 7) // 8 or len(payload) < at + size:
            raise ValueError("a block is longer than it can be")
        yield _Coded(start, stop - start, code, count, payload[at : at + size])
        at += size
    if at != len(payload):
        raise ValueError("bytes are left over")


def _encode_block(bits: np.ndarray, numel: int) -> bytes:
    count = count_bits(bits)
    others = 2 * count > numel
    flags = np.unpackbits(bits, count=numel, bitorder="little").view(np.bool_)
    coded, planes = _encode_gaps(np.flatnonzero(~flags if others else flags))
    if len(coded) < len(bits):
        return HEAD.pack(planes + others * OTHERS, count, len(coded)) + coded.tobytes()
    return HEAD.pack(BITS, count, len(bits)) + bits.tobytes()


def _decode_block(block: _Coded) -> np.ndarray:
    """Return the packed bits of a block."""
    numel, count = block.numel, block.count
    if block.code == BITS:
        body = block.body
        if len(body) != (numel + 7) // 8 or count_bits(body) != count or _spare(body, numel):
            raise ValueError("a block does not hold the bitmap it says")
        return body
    if block.code >= 2 * OTHERS:
        raise ValueError(f"a block has the unknown code {block.code}")
    others = block.code >= OTHERS
    listed = numel - count if others else count
    where = _decode_gaps(block.body, block.code % OTHERS, listed, numel)
    flags = np.full(numel, others)
    flags[where] = not others
    return np.packbits(flags, bitorder="little")


def _encode_gaps(where: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the body and b for ascending positions (k,)."""
    gaps = np.diff(where, prepend=-1) - 1
    planes = _best_planes(gaps)
    rest = gaps >> planes
    bits = np.zeros(planes * len(gaps) + int(rest.sum()) + len(gaps), dtype=np.bool_)
    for plane in range(planes):
        bits[plane * len(gaps) : (plane + 1) * len(gaps)] = gaps >> plane & 1
    bits[planes * len(gaps) + np.cumsum(rest + 1) - 1] = True
    return np.packbits(bits, bitorder="little"), planes


def _best_planes(gaps: np.ndarray) -> int:
    """Return the b that needs the fewest bits."""
    if not len(gaps):
        return 0
    likely = int(max(1.0, float(gaps.mean()))).bit_length()
    tried = range(max(0, likely - 2), likely + 1)
    return min(tried, key=lambda planes: len(gaps) * planes + int((gaps >> planes).sum()))


def _decode_gaps(body: np.ndarray, planes: int, count: int, numel: int) -> np.ndarray:
    """Return the positions (count,) of a body."""
    bits = np.unpackbits(body, bitorder="little")
    if planes > BLOCK.bit_length() or planes * count > len(bits):
        raise ValueError("a block is shorter than its gaps")
    unary = bits[planes * count :].view(np.bool_)
    where = np.flatnonzero(unary)
    if len(where) != count or len(unary) - (where[-1] + 1 if count else 0) > 7:
        raise ValueError("a block has another number of coordinates than it says")
    # Before the n-th one there are n others, and as many zeros as the upper bits of n + 1 gaps say.
    where <<= planes
    where -= np.arange(count) * ((1 << planes) - 1)
    where += _sums(bits, planes, count)
    if count and where[-1] >= numel:
        raise ValueError("a block's coordinates run past its end")
    return where


def _sums(bits: np.ndarray, planes: int, count: int) -> np.ndarray:
    """Return the running sums (count,) of the lower bits of all gaps, which lie in planes."""
    lower = np.zeros(count, dtype=np.uint8 if planes <= 8 else np.int32)
    for plane in range(planes):
        part = bits[plane * count : (plane + 1) * count].astype(lower.dtype, copy=False)
        lower |= part << lower.dtype.type(plane)
    sums = torch.cumsum(torch.from_numpy(lower), 0, dtype=torch.int64)  # numpy takes twice as long
    return sums.numpy()


def _spare(bits: np.ndarray, count: int) -> bool:
    """Whether bits beyond the first `count` are set."""
    return bool(count % 8 and bits[-1] >> count % 8)
