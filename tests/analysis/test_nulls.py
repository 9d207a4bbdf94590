"""The nulls: what they keep, what they match, and what they hang on."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sparseopd.analysis.nulls import Known, draws
from sparseopd.analysis.values import Values, compare, moved
from tests.analysis.checkpoints import analyzed, noise

BF16, FP32 = torch.bfloat16, torch.float32


def known(weight: Tensor, change: Tensor, dtype: torch.dtype, exact: bool = False) -> Known:
    values = compare(weight.float(), weight.float() + change, dtype)
    return Known(weight.float(), values, change, float(change.double().norm()), dtype, exact)


def rounded(weight: Tensor, sigma: float, seed: int, dtype: torch.dtype = BF16) -> Known:
    """Known after rounding alone: a dense Gaussian update of `sigma` behind it."""
    weight = weight.to(dtype)
    noisy = weight.float() + noise(*weight.shape, seed=seed, scale=sigma)
    values = compare(weight, noisy.to(dtype), dtype)
    return Known(weight.float(), values, values.change, values.norm, dtype, False)


def drawn(kind: str, of: Known, count: int = 1, name: str = "w", seed: int = 0) -> list[Values]:
    return list(draws(kind, name, of, count, seed))


def test_shuffling_keeps_every_change_and_the_norm() -> None:
    """Added to zeros, in which nothing is rounded away."""
    change = noise(40, 30, seed=1, scale=1e-3) * (noise(40, 30, seed=2) > 0)
    one, other = drawn("shuffled", known(torch.zeros(40, 30), change, FP32, exact=True), 2)
    for values in (one, other):
        assert torch.equal(values.change.flatten().sort().values, change.flatten().sort().values)
        assert values.norm == pytest.approx(float(change.double().norm()))
        assert not torch.equal(values.change, change)
    assert not torch.equal(one.change, other.change)


def test_shuffling_changes_places_before_it_rounds() -> None:
    weight, change = noise(64, 48, seed=1, scale=0.02).bfloat16(), torch.zeros(64, 48)
    change[:8] = 1e-4
    (values,) = drawn("shuffled", known(weight, change, BF16, exact=True))
    assert values.dtype == BF16
    assert torch.equal(values.before, weight.float())
    assert torch.equal(values.after, values.after.bfloat16().float())
    unmoved = values.change == 0
    half = torch.exp2(torch.frexp(weight.float()).exponent - 9.0)
    assert not bool((~unmoved & (half > 1e-4)).any())  # less than half a ulp is absorbed


@pytest.mark.parametrize("shape", [(1,), (7,), (40, 30), (700, 900)])
def test_gaussian_noise_has_exactly_the_norm_of_a_known_update(shape: tuple[int, ...]) -> None:
    change = noise(*shape, seed=1, scale=1e-3)
    for values in drawn("gaussian", known(torch.zeros(shape), change, FP32, exact=True), 2):
        assert values.norm == pytest.approx(float(change.double().norm()), rel=2e-6)


def test_the_norm_is_met_in_large_matrices_too() -> None:
    """A sum of 10⁷ squares in float32 is off by 1e-3, if it is taken in one go."""
    change = torch.full((4096, 4096), 1e-3)
    (values,) = drawn("gaussian", known(torch.zeros(4096, 4096), change, FP32, exact=True))
    assert values.norm == pytest.approx(4.096, rel=1e-5)


def test_gaussian_noise_moves_all_and_prefers_nothing() -> None:
    change = torch.zeros(200, 150)
    change[:5] = 1.0
    (values,) = drawn("gaussian", known(torch.zeros(200, 150), change, FP32, exact=True))
    sigma = (5 / 200) ** 0.5
    assert int((values.change == 0).sum()) == 0
    assert float(values.change.mean()) == pytest.approx(0, abs=5 * sigma / 30000**0.5)
    assert float((values.change.abs() < sigma).float().mean()) == pytest.approx(0.6827, abs=0.015)
    assert float(values.change[:100].std()) == pytest.approx(sigma, rel=0.03)


@pytest.mark.parametrize(("sigma", "within"), [(3e-6, 4e-3), (3e-5, 1e-3), (1e-3, 1e-3)])
def test_rounded_noise_has_the_norm_of_the_rounded_update(sigma: float, within: float) -> None:
    """Where almost all is absorbed, one coordinate more or less already makes 0.2 % of the norm."""
    of = rounded(noise(300, 200, seed=1, scale=0.02), sigma, seed=2)
    for values in drawn("gaussian", of, 3):
        assert values.norm == pytest.approx(of.norm, rel=within)
        assert torch.equal(values.after, values.after.bfloat16().float())


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 1.0, 3.0])
def test_the_update_behind_a_rounded_one_is_found_again(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From what bfloat16 left of noise of known size, in typical half-ulps, within 2 %."""
    spread = 0.02
    half_ulp = 2.0 ** (math.floor(math.log2(0.6745 * spread)) - 8)
    of = rounded(noise(800, 500, seed=1, scale=spread), share * half_ulp, seed=2)
    before: list[Tensor] = []
    monkeypatch.setattr(
        "sparseopd.analysis.nulls.moved",
        lambda values, after, stored: (
            before.append(after - values.before) or moved(values, after, stored)
        ),
    )
    for values in drawn("gaussian", of, 3):
        scale = float(before[-1].double().square().mean().sqrt())
        assert scale == pytest.approx(share * half_ulp, rel=0.02)
        assert values.norm == pytest.approx(of.norm, rel=1e-3 if share > 0.02 else 1e-2)


@pytest.mark.parametrize("kind", ["shuffled", "gaussian"])
@pytest.mark.parametrize("exact", [True, False])
def test_draws_hang_on_kind_name_number_and_seed_alone(kind: str, exact: bool) -> None:
    weight, change = noise(30, 20, seed=1, scale=0.02), noise(30, 20, seed=2, scale=1e-3)
    of = known(weight, change, FP32, exact)
    one, two, three = drawn(kind, of, 3)
    torch.rand(5)
    again = drawn(kind, of, 2)
    assert torch.equal(one.after, again[0].after) and torch.equal(two.after, again[1].after)
    others = [two, three, *drawn(kind, of, name="v"), *drawn(kind, of, seed=1)]
    assert not any(torch.equal(one.after, other.after) for other in others)


def test_drawing_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    of = known(torch.zeros(9, 8), noise(9, 8), FP32, exact=True)
    for kind in ("shuffled", "gaussian"):
        drawn(kind, of, 2)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [BF16, torch.float16])
@pytest.mark.parametrize("shape", [(1,), (2,), (40,), (40, 30)])
@pytest.mark.parametrize("change", [1e-12, 1e-6, 1.0, 100.0])
def test_updates_off_the_grid_end_with_something_finite(
    dtype: torch.dtype, shape: tuple[int, ...], change: float
) -> None:
    """So small that all of it is absorbed, or one coordinate that jumps from nothing to a ulp."""
    weight = torch.ones(shape).to(dtype)
    moved = torch.zeros(shape)
    moved.view(-1)[0] = change
    for values in drawn("gaussian", known(weight, moved, dtype), 2):
        assert bool(torch.isfinite(values.change).all())
        assert math.isfinite(values.norm)


def test_one_step_of_a_single_weight_is_a_step_or_none() -> None:
    """All that a coordinate of 1 can do in bfloat16 near its size is move by a ulp or not at all."""
    of = known(torch.ones(1), torch.tensor([2.0**-7]), BF16)
    norms = [values.norm for values in drawn("gaussian", of, 5)]
    assert set(norms) <= {0, 2.0**-8, 2.0**-7}
    assert any(norms)


@pytest.mark.parametrize("deviations", [4.0, 5.0])
def test_few_moved_coordinates_among_many_are_matched(deviations: float) -> None:
    """Weights between 1 and 2 move where noise passes half a ulp: 3e-5 or 3e-7 of them."""
    count = 20 if deviations == 4 else 4000
    weight = 1 + 0.9 * torch.rand(count, 1000, generator=torch.Generator().manual_seed(1))
    of = rounded(weight, 2.0**-8 / deviations, seed=2)
    assert of.norm > 0
    for values in drawn("gaussian", of, 2):
        assert values.norm == pytest.approx(of.norm, rel=0.7)  # they move one by one


def test_a_part_that_did_not_move_has_nulls_that_do_not() -> None:
    weight = noise(20, 12, seed=1, scale=0.02)
    found = analyzed({"still": weight, "w": weight}, {"still": weight, "w": weight * 1.01}, draws=3)
    still, moved = found.tensors
    for kind in ("shuffled", "gaussian"):
        assert still[kind]["share_zero"] == [1.0] * 3
        assert still[kind]["delta_fro"] == [0.0] * 3
        assert len(set(moved[kind]["delta_fro"])) == 3 or kind == "shuffled"


def test_the_master_decides_the_norm_of_the_nulls() -> None:
    """The rounded update is smaller than the one before rounding, which noise is to match."""
    weight = noise(160, 100, seed=1, scale=0.02).bfloat16()
    master = weight.float() + noise(160, 100, seed=2, scale=2e-5)
    found = analyzed({"w": weight}, {"w": master.bfloat16()}, {"w": master}, draws=6)
    row = found.tensors[0]
    exact = float((master - weight.float()).double().norm())
    assert row["master"]["delta_fro"] == pytest.approx(exact)
    for kind in ("shuffled", "gaussian"):
        mean = sum(row[kind]["delta_fro"]) / 6
        assert mean == pytest.approx(row["observed"]["delta_fro"], rel=0.05)
