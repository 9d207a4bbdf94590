"""A payload holds its bits, is small, and anything else is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseopd.masks.coding import BLOCK, HEAD, cut, decode, encode, longest, positions


def packed(flags: np.ndarray) -> np.ndarray:
    return np.packbits(flags, bitorder="little")


def unpacked(bits: np.ndarray, numel: int) -> np.ndarray:
    return np.unpackbits(bits, count=numel, bitorder="little")


@given(numel=st.integers(0, 3000), density=st.floats(0, 1), seed=st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_round_trip(numel: int, density: float, seed: int) -> None:
    bits = packed(np.random.default_rng(seed).random(numel) < density)
    payload = encode(bits, numel)
    assert np.array_equal(decode(payload, numel), bits)
    assert np.array_equal(positions(payload, numel), np.flatnonzero(unpacked(bits, numel)))
    assert len(payload) <= longest(numel)


@pytest.mark.parametrize("density", [0, 1e-5, 1e-3, 0.01, 0.05, 0.2, 0.5, 0.8, 0.99, 1])
def test_size_is_near_the_entropy_limit(density: float) -> None:
    numel = 2 * BLOCK + 1001
    flags = np.random.default_rng(0).random(numel) < density
    payload = encode(packed(flags), numel)
    assert np.array_equal(decode(payload, numel), packed(flags))
    share = flags.mean()
    entropy = 0.0
    if 0 < share < 1:
        entropy = -share * np.log2(share) - (1 - share) * np.log2(1 - share)
    heads = 3 * HEAD.size
    assert (
        len(payload) - heads <= 1.05 * min(entropy, 1) * numel / 8 + 6
    )  # the last byte of each body, and one short gap


def test_clustered_and_extreme_positions() -> None:
    flags = np.zeros(BLOCK + 9, dtype=bool)
    flags[[0, 1, 2, BLOCK - 1, BLOCK, BLOCK + 8]] = True
    assert np.array_equal(decode(encode(packed(flags), len(flags)), len(flags)), packed(flags))
    lonely = np.zeros(BLOCK, dtype=bool)
    lonely[-1] = True
    assert len(encode(packed(lonely), BLOCK)) < 20


@pytest.mark.parametrize("density", [0, 1e-5, 0.1, 0.4, 0.9, 1])
def test_stretches_are_payloads_of_their_own(density: float) -> None:
    numel = 5 * BLOCK + 77
    flags = np.random.default_rng(1).random(numel) < density
    payload = encode(packed(flags), numel)
    assert np.array_equal(positions(payload, numel), np.flatnonzero(flags))
    start = 0
    for length, count, part in cut(payload, numel, 2 * BLOCK):
        mine = flags[start : start + length]
        assert np.array_equal(positions(part, length), np.flatnonzero(mine)) and count == mine.sum()
        assert np.array_equal(decode(part, length), packed(mine))
        start += length
    assert start == numel and list(cut(encode(packed(flags[:0]), 0), 0, BLOCK)) == []
    with pytest.raises(ValueError, match="left over"):
        list(cut(np.append(payload, payload[:1]), numel, 2 * BLOCK))


@given(
    seed=st.integers(0, 9),
    numel=st.integers(1, 400),
    density=st.sampled_from([0.0, 0.05, 0.3, 0.9]),
    data=st.data(),
)
@settings(max_examples=300, deadline=None)
def test_a_payload_that_was_changed_is_refused_or_of_the_right_size(
    seed: int, numel: int, density: float, data: st.DataObject
) -> None:
    """The file's checksum finds every change; here nothing may crash or grow."""
    payload = encode(packed(np.random.default_rng(seed).random(numel) < density), numel)
    changed = bytearray(payload.tobytes())
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.integers(0, len(changed) - 1))
        changed[where] = data.draw(st.integers(0, 255))
    shorter = data.draw(st.integers(0, len(changed)))
    for content in (changed, changed[:shorter], changed + b"0"):
        altered = np.frombuffer(bytes(content), np.uint8)
        try:
            bits = decode(altered, numel)
        except ValueError:
            with pytest.raises(ValueError):
                positions(altered, numel)
            continue
        assert np.array_equal(positions(altered, numel), np.flatnonzero(unpacked(bits, numel)))
        assert len(bits) == (numel + 7) // 8
        assert not numel % 8 or bits[-1] >> numel % 8 == 0
