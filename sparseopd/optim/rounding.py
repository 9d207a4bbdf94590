"""Stochastic rounding: bf16 and fp16 weights that follow small updates on average.

Rounding to nearest drops every update smaller than half a step of the weight's dtype (|w|/512 in
bf16) until the master has moved that far. Rounded up or down at random, in proportion to what is
left over, the stored weight equals its master in expectation at every step (Gupta et al. 2015,
arXiv 1502.02551, §3.1).
"""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Float, Int
from torch import Tensor

_MASK = 0xFFFFFFFF


def round_stochastically(
    values: Float[Tensor, "k"], dtype: torch.dtype, uniform: Float[Tensor, "k"]
) -> Float[Tensor, "k"]:
    """Round fp32 `values` to bf16 or fp16, away from zero where `uniform` falls below the remainder.

    Values beyond the largest of `dtype` stay at it; infinities and NaN are kept.
    """
    nearest = values.to(dtype)
    # Both dtypes order their magnitudes as their bits are ordered, the sign apart.
    bits = nearest.view(torch.int16) - (nearest.float().abs() > values.abs()).to(torch.int16)
    low, high = bits.view(dtype), (bits + 1).view(dtype)
    share = (values.abs() - low.float().abs()) / (high.float().abs() - low.float().abs())
    return torch.where(values.isfinite(), torch.where(uniform < share, high, low), nearest)


def uniform_at(positions: Int[Tensor, "k"], name: str, step: int, seed: int) -> Float[Tensor, "k"]:
    """Draw a number in [0, 1) for each flat position (k,) of a tensor, in multiples of 2⁻²⁴.

    It depends on seed, step, name and position alone, so neither the number of processes nor an
    interruption changes it. lowbias32 (Wellons 2018) in int64, which every device has.
    """
    content = f"{seed}:{step}:{name}".encode()
    digest = hashlib.blake2b(content, digest_size=8).digest()
    first, second = (int.from_bytes(digest[at : at + 4], "little") for at in (0, 4))
    mixed = positions.long()
    mixed = (mixed ^ (mixed >> 32) * 0x9E3779B1 ^ first) & _MASK
    mixed = mixed ^ (mixed >> 16)
    mixed = (mixed * 0x7FEB352D + second) & _MASK
    mixed = mixed ^ (mixed >> 15)
    mixed = (mixed * 0x846CA68B) & _MASK
    mixed = mixed ^ (mixed >> 16)
    return (mixed >> 8).float() * 2**-24
