"""Constructed updates whose figures are known beforehand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from sparseopd.analysis.coverage import RANKS
from sparseopd.analysis.sparsity import TOP, sparsity
from sparseopd.analysis.spectrum import TOP as DIRECTIONS
from sparseopd.analysis.spectrum import spectrum
from sparseopd.errors import AnalysisError
from sparseopd.singular import decompose
from tests.analysis.checkpoints import analyzed, noise, observed, orthonormal, values_of

W, CHANGE = noise(50, 30, seed=1, scale=0.02), noise(50, 30, seed=2, scale=1e-3)
ABSOLUTE = ("share_le_", "delta_fro", "base_rms", "spectral_norm", "coverage_")
"""Starts of figures that depend on the unit of W; coverage does by α = 1e-5 alone."""


def test_a_multiple_of_the_identity_moves_every_direction_alike() -> None:
    size = 20
    found = observed(torch.eye(size), torch.eye(size) * 1.25)
    assert found["relative_norm"] == 0.25
    assert found["share_zero"] == 1 - 1 / size
    for name in ("stable_rank", "entropy_effective_rank", "numerical_rank_1e-5"):
        assert found[name] == pytest.approx(size)
    for count in DIRECTIONS:
        assert found[f"svd_energy_top{count}"] == pytest.approx(min(1, count / size))
    for rank, k in ((1, 1), (5, 1), (10, 2), (20, 4)):
        assert found[f"projection_energy_{rank}pct"] == pytest.approx(k / size)
    assert found["spectral_drift"] == pytest.approx(0.25)
    assert found["spectral_norm"] == pytest.approx(0.25)


def test_diagonal_updates_lie_on_the_directions_of_a_diagonal_weight() -> None:
    sizes = torch.arange(20.0, 0, -1)
    steps = torch.tensor([3.0, 2, 1, 1] + [0.0] * 16)
    found = observed(sizes.diag(), (sizes + steps).diag())
    for rank, held in ((1, 9), (5, 9), (10, 13), (20, 15)):
        assert found[f"projection_energy_{rank}pct"] == pytest.approx(held / 15)
        assert found[f"subspace_rotation_{rank}pct"] == pytest.approx(0, abs=1e-7)
    assert found["coverage_principal_20pct_alpha_0"] == 1
    assert found["coverage_low_magnitude_20pct_alpha_0"] == 0
    assert found["coverage_nonprincipal_or_low_20pct_alpha_0"] == 0
    assert found["spectral_drift"] == pytest.approx(15**0.5 / float(sizes.norm()))
    assert found["stable_rank"] == pytest.approx(15 / 9)
    assert found["numerical_rank_1e-5"] == 4


@pytest.mark.parametrize("rank", [1, 2, 8])
def test_a_low_rank_update_has_that_rank_and_its_energy(rank: int) -> None:
    change = (orthonormal(50, rank, 3) @ orthonormal(30, rank, 4).T).float()
    found = spectrum(values_of(change), decompose(change))
    assert found["numerical_rank_1e-5"] == found["numerical_rank_1e-4"] == rank
    assert found["stable_rank"] == pytest.approx(rank)
    assert found["entropy_effective_rank"] == pytest.approx(rank, rel=1e-4)
    for count in DIRECTIONS:
        assert found[f"svd_energy_top{count}"] == pytest.approx(min(1, count / rank))


def test_permuting_rows_and_columns_changes_nothing() -> None:
    rows, columns = noise(50, seed=5).argsort(), noise(30, seed=6).argsort()
    found = observed(W, W + CHANGE)
    permuted = observed(W[rows][:, columns], (W + CHANGE)[rows][:, columns])
    assert permuted == pytest.approx(found, rel=1e-9)


def test_transposing_changes_nothing_but_whose_side_is_left() -> None:
    found, turned = observed(W, W + CHANGE), observed(W.T, (W + CHANGE).T)
    sided = [name for name in found if name.startswith(("subspace_rotation_", "principal_angle_"))]
    for name in sided:
        del found[name], turned[name]
    assert len(sided) == 2 * len(RANKS)
    assert turned == pytest.approx(found, rel=1e-9)


@pytest.mark.parametrize("place", [(0, 0), (7, 23)])
def test_one_coordinate_is_one_direction_with_all_energy(place: tuple[int, int]) -> None:
    after = W.clone()
    after[place] += 0.5
    found = observed(W, after)
    assert found["share_zero"] == found["share_le_1e-4"] == 1 - 1 / W.numel()
    assert found["delta_fro"] == found["spectral_norm"] == pytest.approx(float((after - W)[place]))
    for percent in TOP:
        assert found[f"coordinate_energy_top_{percent}pct"] == 1
    for name in ("stable_rank", "entropy_effective_rank", "numerical_rank_1e-5"):
        assert found[name] == pytest.approx(1, rel=1e-5)
    for count in DIRECTIONS:
        assert found[f"svd_energy_top{count}"] == pytest.approx(1)


def test_the_smallest_weight_alone_is_covered_by_every_low_mask() -> None:
    after = W.clone().flatten()
    after[W.abs().argmin()] += 0.5
    found = observed(W, after.view(W.shape))
    for rank in RANKS:
        assert found[f"coverage_low_magnitude_{rank}pct_alpha_0"] == 1
        assert found[f"coverage_nonprincipal_or_low_{rank}pct_alpha_1e-5"] == 1


def test_an_update_of_zeros_has_shares_and_nothing_else() -> None:
    found = observed(W, W.clone())
    for name, value in found.items():
        if name.startswith("share_"):
            assert value == 1, name
        elif name in ("delta_fro", "relative_norm"):
            assert value == 0
        elif name != "base_rms":
            assert value is None, name


def test_flipping_every_sign_is_twice_the_weight_and_turns_nothing() -> None:
    found = observed(W, -W)
    sigma = np.linalg.svd(W.double().numpy(), compute_uv=False)
    assert found["relative_norm"] == pytest.approx(2)
    assert found["spectral_norm"] == pytest.approx(2 * sigma[0])
    assert found["share_zero"] == found["share_unchanged_eta_1e-3"] == 0
    assert found["spectral_drift"] == pytest.approx(0, abs=1e-12)
    for rank, k in ((1, 1), (5, 1), (10, 3), (20, 6)):
        share = (sigma[:k] ** 2).sum() / (sigma**2).sum()
        assert found[f"projection_energy_{rank}pct"] == pytest.approx(share)
        assert found[f"subspace_rotation_{rank}pct"] == pytest.approx(0, abs=1e-7)


def test_doubling_the_weight_has_relative_norm_one() -> None:
    found = observed(W, 2 * W)
    assert found["relative_norm"] == pytest.approx(1)
    assert found["spectral_drift"] == pytest.approx(1)
    assert found["subspace_rotation_20pct"] == pytest.approx(0, abs=1e-7)
    assert found["share_unchanged_eta_1e-3"] == 0


@pytest.mark.parametrize("power", [-100, -83, -10, 10, 100])
def test_figures_do_not_depend_on_the_unit(power: int) -> None:
    """2⁻⁸³ is about 1e-25 and 2¹⁰⁰ about 1e30: their squares lie outside float32."""
    found = observed(W, W + CHANGE)
    scaled = observed(W * 2.0**power, (W + CHANGE) * 2.0**power)
    for name, value in found.items():
        if name in ("delta_fro", "base_rms", "spectral_norm"):
            assert scaled[name] == pytest.approx(value * 2.0**power, rel=1e-9), name
        elif not name.startswith(ABSOLUTE) or name.endswith("alpha_0"):
            assert scaled[name] == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize("unit", [1e-42, 1e-25, 1e30])
def test_squares_beyond_float32_are_not_lost(unit: float) -> None:
    change = (CHANGE.double() / CHANGE.abs().max() * unit).float()
    exact = change.double().numpy()
    found = sparsity(values_of(change)) | spectrum(values_of(change), decompose(change))
    assert found["delta_fro"] == pytest.approx(float(np.linalg.norm(exact)), rel=1e-6)
    sigma = np.linalg.svd(exact, compute_uv=False)
    assert found["spectral_norm"] == pytest.approx(sigma[0], rel=1e-6)
    assert found["stable_rank"] == pytest.approx((sigma**2).sum() / sigma[0] ** 2, rel=1e-6)
    assert found["svd_energy_top8"] == pytest.approx((sigma[:8] ** 2).sum() / (sigma**2).sum())
    assert found["numerical_rank_1e-5"] == (sigma > 1e-5 * sigma[0]).sum()
    largest = np.sort(exact.ravel() ** 2)[::-1]
    wanted = largest[:75].sum() / largest.sum()
    assert found["coordinate_energy_top_5pct"] == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("side", ["base", "tuned"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_by_name(side: str, value: float) -> None:
    sides = {"base": {"ok": W, "bad.weight": W}, "tuned": {"ok": W + CHANGE, "bad.weight": W}}
    sides[side]["bad.weight"] = W.clone().index_fill_(0, torch.tensor([3]), value)
    label = {"base": "the base", "tuned": "the tuned one"}[side]
    with pytest.raises(AnalysisError, match=f"bad.weight of {label} is not finite"):
        analyzed(**sides, draws=0)
    assert analyzed(**sides, draws=0, exclude=("bad*",)).whole["numel"] == W.numel()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_leaves_the_compared_dtype_is_refused_by_name(dtype: Any) -> None:
    """3.4e38 is finite in float32 and rounds to infinity in either."""
    large = torch.full((9, 9), 3.4e38)
    with pytest.raises(AnalysisError, match=r"big\.weight"):
        analyzed({"big.weight": large}, {"big.weight": -large}, draws=0, dtype=dtype)


def test_a_weight_of_zeros_can_move() -> None:
    """As the second factor of a LoRA merge, or a projection that starts at zero."""
    found = observed(torch.zeros(30, 20), CHANGE[:, :20][:30])
    assert found["relative_norm"] is None
    assert found["spectral_drift"] is None
    assert found["stable_rank"] > 1


@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (100, 100)])
def test_the_subspaces_of_a_weight_without_full_rank_stay_subspaces(shape: tuple[int, int]) -> None:
    """Of a weight of ones only the first direction is its own; any others orthogonal to it will do."""
    before = torch.ones(shape)
    found = observed(before, before + noise(*shape, seed=1, scale=1e-3))
    for rank in RANKS:
        assert 0 <= found[f"projection_energy_{rank}pct"] < 0.2
        assert 0 <= found[f"subspace_rotation_{rank}pct"] <= 1


@pytest.mark.parametrize("shape", [(40,), (1, 40), (40, 1), ()])
def test_vectors_have_no_spectrum(shape: tuple[int, ...]) -> None:
    before = noise(*shape, seed=1)
    found = observed(before, before + 0.5)
    assert not [name for name in found if name.startswith(("stable", "svd", "cover", "projection"))]
    assert found["delta_fro"] == pytest.approx(0.5 * before.numel() ** 0.5, rel=1e-6)
    assert found["share_zero"] == 0


def test_empty_tensors_are_left_out() -> None:
    base = {"empty": torch.zeros(0, 4), "w": W}
    found = analyzed(base, {"empty": torch.zeros(0, 4), "w": W + CHANGE}, draws=0)
    assert [row["name"] for row in found.tensors] == ["w"]
    assert found.whole["numel"] == W.numel()


def test_a_model_of_empty_tensors_is_refused() -> None:
    with pytest.raises(AnalysisError):
        analyzed({"empty": torch.zeros(0, 4)}, {"empty": torch.zeros(0, 4)}, draws=0)
