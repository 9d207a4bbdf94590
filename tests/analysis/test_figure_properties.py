"""What holds of figures whatever the update: by hypothesis."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparseopd.analysis.coverage import RANKS, regions
from sparseopd.analysis.sparsity import TOP, sparsity
from sparseopd.analysis.spectrum import TOP as DIRECTIONS
from sparseopd.analysis.spectrum import spectrum
from sparseopd.analysis.values import compare
from sparseopd.singular import decompose
from tests.analysis.checkpoints import noise, observed, orthonormal, values_of

quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31 - 1)


@quick
@given(seed=seeds, rows=st.integers(2, 40), columns=st.integers(2, 40), levels=st.integers(1, 6))
def test_masks_have_exactly_their_size_whatever_the_ties(
    seed: int, rows: int, columns: int, levels: int
) -> None:
    weight = (noise(rows, columns, seed=seed) * levels).round() / levels
    code = regions(weight, decompose(weight, max(1, min(rows, columns) // 5)))
    for place, rank in enumerate(RANKS):
        count = math.ceil(rank / 100 * weight.numel())
        assert int((code >> place & 1).sum()) == count
        assert int((code >> (4 + place) & 1).sum()) == count


@quick
@given(seed=seeds, rows=st.integers(5, 40), columns=st.integers(5, 40))
def test_masks_hold_what_topk_holds(seed: int, rows: int, columns: int) -> None:
    weight = noise(rows, columns, seed=seed)
    code = regions(weight, decompose(weight, max(1, min(rows, columns) // 5)))
    u, s, v = np.linalg.svd(weight.double().numpy(), full_matrices=False)
    for place, rank in enumerate(RANKS):
        count = math.ceil(rank / 100 * weight.numel())
        k = max(1, rank * min(rows, columns) // 100)
        size = torch.from_numpy(np.abs((u[:, :k] * s[:k]) @ v[:k])).flatten()
        edge = size.topk(count).values[-1]
        chosen = (code >> place & 1).bool()
        # float32 may order what is equal to seven digits the other way
        assert size[chosen].min() >= edge * (1 - 1e-5)
        assert size[~chosen].max() <= edge * (1 + 1e-5)
        smallest = (-weight.abs().flatten()).topk(count).indices
        assert (code >> (4 + place) & 1).bool().nonzero().flatten().tolist() == sorted(
            smallest.tolist()
        )


@quick
@given(seed=seeds, exponent=st.floats(-7, -1), dtype=st.sampled_from(["float32", "bfloat16"]))
def test_shares_grow_with_the_threshold(seed: int, exponent: float, dtype: Any) -> None:
    change = noise(20, 12, seed=seed, scale=10**exponent)
    weight = noise(20, 12, seed=seed + 1, scale=0.02)
    found = sparsity(compare(weight, weight + change, getattr(torch, dtype)))
    for names in (
        ["share_zero"] + [f"share_le_{t}" for t in ("1e-8", "1e-6", "1e-5", "1e-4")],
        [f"share_lt_{t}_rms" for t in ("1e-4", "1e-3", "1e-2")],
    ):
        shares = [found[name] or 0.0 for name in names]
        assert shares == sorted(shares)
        assert shares[0] >= 0 and shares[-1] <= 1


@quick
@given(seed=seeds, rank=st.integers(1, 12), sparse=st.booleans())
def test_energies_are_shares_that_grow(seed: int, rank: int, sparse: bool) -> None:
    change = noise(24, rank, seed=seed) @ noise(rank, 12, seed=seed + 1)
    if sparse:
        change = change * (noise(24, 12, seed=seed + 2) > 1)
        change[0, 0] = 1.0
    values = values_of(change)
    found = sparsity(values) | spectrum(values, decompose(change))
    for names in (
        [f"coordinate_energy_top_{percent}pct" for percent in TOP],
        [f"svd_energy_top{count}" for count in DIRECTIONS],
    ):
        energies = [found[name] or 0.0 for name in names]
        assert energies == sorted(energies)
        assert energies[0] > 0 and energies[-1] <= 1 + 1e-7  # ΣΔ² is of float32 squares
    assert found["svd_energy_top16"] == pytest.approx(1)


@quick
@given(seed=seeds, rank=st.sampled_from(RANKS), rows=st.integers(25, 60))
def test_an_update_inside_the_principal_subspace_projects_wholly(
    seed: int, rank: int, rows: int
) -> None:
    weight = noise(rows, 40, seed=seed)
    u, _, v = np.linalg.svd(weight.double().numpy(), full_matrices=False)
    k = max(1, rank * min(rows, 40) // 100)
    inner = noise(k, k, seed=seed + 1).double().numpy()
    change = torch.from_numpy(u[:, :k] @ inner @ v[:k]).float()
    found = observed(weight, weight + change)
    assert found[f"projection_energy_{rank}pct"] == pytest.approx(1, abs=1e-5)


@quick
@given(seed=seeds, angle=st.floats(1e-3, math.pi / 2 - 1e-3))
def test_a_subspace_turned_by_an_angle_has_its_sine(seed: int, angle: float) -> None:
    """Eight strong directions, all turned by one angle into eight others."""
    k, size = 8, 40
    left, right = orthonormal(size, size, seed), orthonormal(size, size, seed + 1)
    sigma = torch.tensor([10.0 - i for i in range(k)] + [0.01] * (size - k), dtype=torch.float64)
    turned = [turn(side, k, angle) for side in (left, right)]
    before, after = ((u * sigma @ v.T).float() for u, v in ((left, right), turned))
    found = observed(before, after)
    assert found["subspace_rotation_20pct"] == pytest.approx(math.sin(angle), abs=1e-5)
    assert found["principal_angle_largest_20pct"] == pytest.approx(angle, abs=1e-4)
    assert found["spectral_drift"] == pytest.approx(0, abs=1e-6)


def turn(basis: Tensor, k: int, angle: float) -> Tensor:
    strong, others = basis[:, :k], basis[:, k : 2 * k]
    cosine, sine = math.cos(angle), math.sin(angle)
    return torch.cat(
        [cosine * strong + sine * others, cosine * others - sine * strong, basis[:, 2 * k :]], 1
    )


@quick
@given(seed=seeds, rank=st.integers(1, 20), span=st.floats(0, 4))
def test_the_numerical_rank_is_lapacks(seed: int, rank: int, span: float) -> None:
    """Singular values from 1 down to 10⁻ˢᵖᵃⁿ, then those that rounding to float32 leaves."""
    sigma = torch.logspace(0, -span, rank, dtype=torch.float64)
    change = (orthonormal(40, rank, seed) * sigma @ orthonormal(24, rank, seed + 1).T).float()
    found = spectrum(values_of(change), decompose(change))
    exact = np.linalg.svd(change.double().numpy(), compute_uv=False)
    for tolerance in ("1e-5", "1e-4"):
        wanted = (exact > float(tolerance) * exact[0]).sum()
        if np.abs(exact / exact[0] / float(tolerance) - 1).min() > 1e-4:  # none on the threshold
            assert found[f"numerical_rank_{tolerance}"] == wanted
    if span < 3.9:
        assert found["numerical_rank_1e-5"] == found["numerical_rank_1e-4"] == rank
