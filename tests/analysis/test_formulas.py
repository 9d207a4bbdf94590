"""Every figure by its formula, in plain numpy and float64."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sparseopd.analysis.coverage import RANKS
from sparseopd.analysis.sparsity import TOP
from sparseopd.analysis.spectrum import TOP as DIRECTIONS
from tests.analysis.checkpoints import analyzed, noise, observed

W = {
    "model.layers.0.self_attn.q_proj.weight": (40, 30),
    "model.layers.0.mlp.up_proj.weight": (24, 50),
}


def by_numpy(before: Tensor, after: Tensor) -> dict[str, Any]:
    """Every figure of two bfloat16 matrices by its formula, in float64."""
    w, tuned = before.double().numpy(), after.double().numpy()
    d = (after - before).double().numpy()
    size, n = np.abs(d), d.size
    rms = float(np.sqrt((w**2).mean()))
    figures = {
        "delta_fro": np.linalg.norm(d),
        "relative_norm": np.linalg.norm(d) / np.linalg.norm(w),
        "base_rms": rms,
        "share_zero": (d == 0).mean(),
        "share_unchanged_eta_1e-3": (size <= 1e-3 * np.maximum(np.abs(w), np.abs(tuned))).mean(),
    }
    for name in ("1e-8", "1e-6", "1e-5", "1e-4"):
        limit = float(torch.tensor(float(name)).bfloat16())
        figures[f"share_le_{name}"] = (size <= limit).mean()
        figures[f"share_le_{name}_exact"] = (size <= float(name)).mean()
    for name in ("1e-4", "1e-3", "1e-2"):
        limit = float(torch.tensor(float(name) * rms).bfloat16())
        figures[f"share_lt_{name}_rms"] = (size < limit).mean()
    largest = np.sort(d.ravel() ** 2)[::-1]
    for percent in TOP:
        held = largest[: math.ceil(percent * n / 100)].sum()
        figures[f"coordinate_energy_top_{percent}pct"] = held / largest.sum()
    return figures | spectra_by_numpy(d) | geometry_by_numpy(w, tuned, d)


def spectra_by_numpy(d: np.ndarray) -> dict[str, Any]:
    sigma = np.linalg.svd(d, compute_uv=False)
    shares = sigma / sigma.sum()
    shares = shares[shares > 0]
    figures = {
        "spectral_norm": sigma[0],
        "stable_rank": (sigma**2).sum() / sigma[0] ** 2,
        "entropy_effective_rank": np.exp(-(shares * np.log(shares)).sum()),
    }
    figures |= {
        f"numerical_rank_{t}": (sigma > float(t) * sigma[0]).sum() for t in ("1e-5", "1e-4")
    }
    for count in DIRECTIONS:
        figures[f"svd_energy_top{count}"] = (sigma[:count] ** 2).sum() / (sigma**2).sum()
    return figures


def geometry_by_numpy(w: np.ndarray, tuned: np.ndarray, d: np.ndarray) -> dict[str, Any]:
    u, s, v = np.linalg.svd(w, full_matrices=False)
    u2, s2, _ = np.linalg.svd(tuned, full_matrices=False)
    figures = {"spectral_drift": np.linalg.norm(s2 - s) / np.linalg.norm(s)}
    for rank in RANKS:
        k = max(1, rank * min(w.shape) // 100)
        inner = u[:, :k].T @ d @ v[:k].T
        figures[f"projection_energy_{rank}pct"] = (inner**2).sum() / (d**2).sum()
        outside = u2[:, :k] - u[:, :k] @ (u[:, :k].T @ u2[:, :k])
        sines = np.linalg.svd(outside, compute_uv=False)
        figures[f"subspace_rotation_{rank}pct"] = sines.mean()
        figures[f"principal_angle_largest_{rank}pct"] = np.arcsin(min(1.0, sines.max()))
        count = math.ceil(rank * w.size / 100)
        principal = top(np.abs((u[:, :k] * s[:k]) @ v[:k]), count)
        low = top(-np.abs(w), count)
        for alpha in ("0", "1e-5"):
            moved = np.abs(d) > np.float32(alpha)
            for kind, mask in (
                ("principal", principal),
                ("low_magnitude", low),
                ("nonprincipal_or_low", ~principal | low),
            ):
                name = f"coverage_{kind}_{rank}pct_alpha_{alpha}"
                figures[name] = (moved & mask).sum() / moved.sum()
    return figures


def top(values: np.ndarray, count: int) -> np.ndarray:
    """Ties are broken by `torch.topk`, as the authors do."""
    flags = np.zeros(values.size, dtype=bool)
    flags[torch.from_numpy(values.astype(np.float32)).flatten().topk(count).indices] = True
    return flags.reshape(values.shape)


@pytest.mark.parametrize("shape", [(50, 30), (30, 50), (17, 17), (200, 9)])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_figure_is_its_formula(shape: tuple[int, int], seed: int) -> None:
    before = noise(*shape, seed=seed, scale=0.02).bfloat16()
    after = (before.float() + noise(*shape, seed=seed + 9, scale=3e-5)).bfloat16()
    found, wanted = observed(before, after), by_numpy(before, after)
    assert found.keys() >= wanted.keys()
    wrong = {
        name: (found[name], value)
        for name, value in wanted.items()
        if found[name] != pytest.approx(value, rel=1e-6, abs=1e-12)
    }
    assert not wrong


def model(seed: int, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A layer of two matrices and a norm, of which the second matrix moves ten times as far."""
    shapes = {**W, "model.norm.weight": (30,)}
    base, tuned = {}, {}
    for place, (name, shape) in enumerate(shapes.items()):
        base[name] = noise(*shape, seed=seed + place, scale=0.02).to(dtype)
        change = noise(*shape, seed=seed + 50 + place, scale=1e-4 * 10 ** (place == 1))
        tuned[name] = (base[name].float() + change).to(dtype)
    return base, tuned


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("dtype", "within"), [(torch.bfloat16, 1e-9), (torch.float32, 1e-3)])
def test_the_energy_of_the_largest_coordinates_of_all(
    seed: int, dtype: torch.dtype, within: float
) -> None:
    """Counted in bins of |Δ|, which hold one value each in bfloat16 and 1/128 of an octave in float32."""
    base, tuned = model(seed, dtype)
    squares = torch.cat([(tuned[name] - base[name]).double().flatten() ** 2 for name in base])
    whole = analyzed(base, tuned, draws=0).whole["observed"]
    for percent in TOP:
        count = math.ceil(percent / 100 * len(squares))
        wanted = float(squares.topk(count).values.sum() / squares.sum())
        found = whole[f"coordinate_energy_top_{percent}pct_together"]
        assert found == pytest.approx(wanted, rel=within)


def test_parts_are_combined_as_each_figure_asks() -> None:
    base, tuned = model(1, torch.bfloat16)
    found = analyzed(base, tuned, draws=0)
    rows = {row["name"]: row["observed"] for row in found.tensors}
    sizes = {name: weight.numel() for name, weight in base.items()}
    whole, total = found.whole["observed"], sum(sizes.values())
    energies = {name: row["delta_fro"] ** 2 for name, row in rows.items()}
    energy = sum(energies.values())
    assert found.whole["numel"] == total and found.whole["matrices"] == 2
    assert whole["delta_fro"] == pytest.approx(energy**0.5)
    norm = sum(float(weight.double().square().sum()) for weight in base.values()) ** 0.5
    assert whole["relative_norm"] == pytest.approx(energy**0.5 / norm)
    zeros = sum(int((tuned[name] == base[name]).sum()) for name in base)
    assert whole["share_zero"] == zeros / total
    held = sum(row["coordinate_energy_top_5pct"] * energies[name] for name, row in rows.items())
    assert whole["coordinate_energy_top_5pct_pooled"] == pytest.approx(held / energy)
    ranks = {name: rows[name]["stable_rank"] for name in W}
    assert whole["median_stable_rank"] == pytest.approx(statistics.median(ranks.values()))
    mean = sum(ranks[name] * sizes[name] for name in W) / sum(sizes[name] for name in W)
    assert whole["mean_stable_rank"] == pytest.approx(mean)
    for block, name in (("attention", next(iter(W))), ("norm", "model.norm.weight")):
        sides = found.groups["block"][block]["observed"]
        assert sides["share_of_energy"] == pytest.approx(energies[name] / energy)
        assert sides["share_of_size"] == sizes[name] / total
        assert sides["share_zero"] == rows[name]["share_zero"]
    assert set(found.groups["layer"]) == {"0"}
    assert found.groups["layer"]["0"]["numel"] == sum(sizes[name] for name in W)


def test_sizes_of_weights_and_changes_are_counted_in_half_octaves() -> None:
    base, tuned = model(1, torch.bfloat16)
    joint = analyzed(base, tuned, draws=1).joint
    weights, changes = (
        torch.cat([of(name).float().abs().flatten() for name in base]).numpy()
        for of in (lambda name: base[name], lambda name: tuned[name] - base[name])
    )
    edges = [[*joint[axis], np.inf] for axis in ("weight", "change")]
    wanted, _, _ = np.histogram2d(weights, changes, bins=edges)
    np.testing.assert_array_equal(np.array(joint["observed"]), wanted)
    assert np.array(joint["gaussian"]).sum() == len(weights)
    for edge in joint["weight"][2:]:
        assert math.log2(edge) % 1 in (0, pytest.approx(math.log2(1.5)))
