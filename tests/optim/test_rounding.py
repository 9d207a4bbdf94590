"""Stochastic rounding is unbiased, seeded by coordinate, and follows updates that rounding drops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparseopd import Mask, MaskedOptimizer
from sparseopd.optim.rounding import round_stochastically, uniform_at

DTYPES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@given(st.floats(-60000, 60000, width=32), st.floats(0, 1, exclude_max=True, width=32))
@settings(max_examples=300, deadline=None)
def test_it_lands_on_a_neighbour(dtype: torch.dtype, value: float, uniform: float) -> None:
    exact = torch.tensor([value])
    rounded = round_stochastically(exact, dtype, torch.tensor([uniform])).float()
    nearest = exact.to(dtype)
    step = (nearest.view(torch.int16) + 1).view(dtype).float() - nearest.float()
    assert float((rounded - exact).abs()) <= 2 * float(step.abs())
    if float(nearest) == value:  # what the dtype holds is kept
        assert float(rounded) == value


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [1.001, -0.0173, 3e-6, -123.45, 6.5e-8])
def test_its_mean_is_the_value(dtype: torch.dtype, value: float) -> None:
    count = 1 << 16
    uniform = (torch.arange(count) + 0.5) / count
    rounded = round_stochastically(torch.full((count,), value), dtype, uniform)
    assert len(rounded.unique()) == 2
    # The two neighbours are mixed in steps of 1/count.
    spread = float(rounded.float().max() - rounded.float().min())
    assert float(rounded.double().mean()) == pytest.approx(value, abs=spread / count, rel=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_cannot_be_rounded_is_kept(dtype: torch.dtype) -> None:
    inf, largest = float("inf"), torch.finfo(dtype).max
    odd = torch.tensor([inf, -inf, float("nan"), 0.0, -0.0, largest, -largest])
    rounded = round_stochastically(odd, dtype, torch.zeros(7))
    expected = odd.to(dtype)
    assert torch.equal(rounded.view(torch.int16)[3:], expected.view(torch.int16)[3:])
    assert torch.equal(rounded[:2], expected[:2])
    assert rounded[2].isnan()


def test_draws_are_uniform_and_belong_to_seed_step_name_and_position() -> None:
    positions = torch.arange(1 << 16)
    drawn = uniform_at(positions, "weight", 1, 0)
    assert ((drawn >= 0) & (drawn < 1)).all()
    counts = torch.histc(drawn, 64, 0, 1)
    assert float((counts - 1024).square().sum() / 1024) < 110  # χ² with 63 degrees, p = 2e-4
    others = [("weight", 2, 0), ("weight", 1, 1), ("bias", 1, 0)]
    for name, step, seed in others:
        other = uniform_at(positions, name, step, seed)
        assert abs(float(torch.corrcoef(torch.stack([drawn, other]))[0, 1])) < 0.02
    assert torch.equal(uniform_at(positions[100:200], "weight", 1, 0), drawn[100:200])
    far = uniform_at(positions + (1 << 32), "weight", 1, 0)
    assert abs(float(torch.corrcoef(torch.stack([drawn, far]))[0, 1])) < 0.02


def trained(stochastic: bool, seed: int = 0) -> tuple[torch.Tensor, dict[str, float]]:
    """Weights of 1 in bf16 after 100 steps of 1e-4 down: rounding to nearest never sees them move
    before the master has gone half a step of bf16, 2⁻⁹."""
    model = nn.Module()
    model.weight = nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))
    optimizer = MaskedOptimizer(
        model,
        Mask.from_tensors({"weight": torch.ones(4096, dtype=torch.bool)}),
        torch.optim.SGD,
        lr=1e-5,
        stochastic_rounding=stochastic,
        seed=seed,
        telemetry_every=10,
    )
    for _ in range(100):
        model.weight.sum().backward()
        optimizer.step()
    return model.weight.detach().float(), optimizer.telemetry


def test_small_updates_show_on_average() -> None:
    nearest, still = trained(False)
    assert (nearest == 1).all()
    assert still["moved_since_start"] == 0.0
    assert still["pending"] == pytest.approx(1e-3, rel=1e-2)
    shown, moving = trained(True)
    # The master is at .999, a quarter of the way to the bf16 number below 1: 2⁻⁸ lower.
    assert float(shown.mean()) == pytest.approx(0.999, abs=1e-4)
    assert moving["moved_since_start"] == pytest.approx(0.256, abs=0.03)


def test_a_seed_fixes_the_rounding() -> None:
    assert torch.equal(trained(True)[0], trained(True)[0])
    assert not torch.equal(trained(True)[0], trained(True, seed=1)[0])
