"""Findings about constructed updates: nothing where there is no structure, and what there is where there is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.analysis.checkpoints import analyzed, matrices, noise

NOTHING = "No evidence of structure beyond rounding"
FP32, BF16 = torch.float32, torch.bfloat16
SHAPE = (96, 64)


def weights(count: int, dtype: torch.dtype, seed: int) -> dict[str, Tensor]:
    return {
        name: noise(*SHAPE, seed=1000 * seed + place, scale=0.02).to(dtype)
        for place, name in enumerate(matrices(count))
    }


def findings(
    count: int, dtype: torch.dtype, seed: int, update: Callable[[Tensor, int], Tensor | None]
) -> list[str]:
    """What is said of an update, given the weight and a seed; None leaves a dense Gaussian one."""
    base = weights(count, dtype, seed)
    tuned = {}
    for place, (name, weight) in enumerate(base.items()):
        own = 1000 * seed + 500 + place
        change = update(weight.float(), own)
        change = noise(*SHAPE, seed=own, scale=1e-4) if change is None else change
        tuned[name] = (weight.float() + change).to(dtype)
    return analyzed(base, tuned).findings


def test_dense_gaussian_updates_show_nothing() -> None:
    """Of twenty at most one: 1, 4 or 20 matrices, both dtypes, of which most or nothing is absorbed."""
    told = []
    for seed in range(20):
        count, dtype = (1, 4, 20, 1, 4)[seed % 5], (FP32, BF16)[seed % 2]
        scale = (3e-6, 3e-5, 1e-3)[seed % 3]
        found = findings(count, dtype, seed, lambda _, own, by=scale: noise(*SHAPE, seed=own) * by)
        if not found[0].startswith(NOTHING):
            told.append((count, dtype, scale, found))
    assert len(told) <= 1, told


def low_rank(rank: int) -> Callable[[Tensor, int], Tensor]:
    def update(weight: Tensor, seed: int) -> Tensor:
        left, right = noise(SHAPE[0], rank, seed=seed), noise(rank, SHAPE[1], seed=seed + 50_000)
        return left @ right * (1e-4 / rank**0.5)

    return update


def sparse(weight: Tensor, seed: int) -> Tensor:
    chosen = torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed)) < 0.01
    return noise(*SHAPE, seed=seed, scale=1e-3) * chosen


def leading(weight: Tensor, share: float) -> tuple[Tensor, Tensor]:
    left, _, right = torch.linalg.svd(weight.double(), full_matrices=False)
    count = int(share * min(weight.shape))
    return left[:, :count], right[:count]


def principal(weight: Tensor, seed: int) -> Tensor:
    left, right = leading(weight, 0.1)
    inner = noise(left.shape[1], left.shape[1], seed=seed, scale=3e-3).double()
    return (left @ inner @ right).float()


def elsewhere(weight: Tensor, seed: int) -> Tensor:
    left, right = leading(weight, 0.2)
    change = noise(*SHAPE, seed=seed, scale=3e-4).double()
    change = change - left @ (left.T @ change)
    return (change - (change @ right.T) @ right).float()


def on_small_weights(weight: Tensor, seed: int) -> Tensor:
    edge = weight.abs().flatten().kthvalue(weight.numel() // 10).values
    return noise(*SHAPE, seed=seed, scale=3e-4) * (weight.abs() <= edge)


UPDATES = {
    "rank 2": (low_rank(2), "Concentrated in few directions"),
    "rank 8": (low_rank(8), "Concentrated in few directions"),
    "sparse": (sparse, "Sparser than dense Gaussian noise of the same norm"),
    "principal": (principal, "Drawn to the principal subspaces"),
    "elsewhere": (elsewhere, "Keeps out of the principal subspaces"),
    "small weights": (on_small_weights, "Prefers small weights more than rounding explains"),
}


@pytest.mark.parametrize("count", [1, 4, 20])
@pytest.mark.parametrize("kind", UPDATES)
def test_structure_is_found(kind: str, count: int) -> None:
    update, opening = UPDATES[kind]
    dtype = (FP32, BF16)[(list(UPDATES).index(kind) + [1, 4, 20].index(count)) % 2]
    found = findings(count, dtype, 1, update)
    assert any(sentence.startswith(opening) for sentence in found), found


@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_structure_in_one_module_of_many_is_found_there(dtype: torch.dtype) -> None:
    places = [place for place, name in enumerate(matrices(20)) if "v_proj" in name]

    def update(weight: Tensor, seed: int) -> Tensor | None:
        return low_rank(2)(weight, seed) if seed % 500 in places else None

    found = findings(20, dtype, 1, update)
    told = [sentence for sentence in found if sentence.startswith("Concentrated in few directions")]
    assert len(told) == 1 and "v_proj" in told[0], found
    assert not any(name in " ".join(found) for name in ("q_proj", "k_proj", "o_proj"))


def test_an_update_of_vectors_alone_is_not_called_noise() -> None:
    """No matrix moved at all, which no dense update does."""
    base = {**weights(4, FP32, 1), "model.norm.weight": torch.ones(64)}
    tuned = {**base, "model.norm.weight": torch.ones(64) + noise(64, scale=0.1)}
    assert not analyzed(base, tuned).findings[0].startswith(NOTHING)


def test_equal_checkpoints_have_no_update() -> None:
    base = weights(4, BF16, 1)
    assert "are equal" in analyzed(base, dict(base)).findings[0]


@pytest.mark.parametrize(("draws", "says"), [(0, "No null was drawn"), (1, "cannot say how far")])
def test_too_few_draws_claim_nothing(draws: int, says: str) -> None:
    base = weights(1, FP32, 1)
    tuned = {name: weight + sparse(weight, 1) for name, weight in base.items()}
    found = analyzed(base, tuned, draws=draws)
    assert says in found.findings[0]
    assert not any(seen["structure"] for seen in found.verdicts.values())


def of_kind(kind: str, seed: int, scale: float) -> Tensor:
    """Dense changes that do not look at W, of other distributions than noise: root mean square `scale`."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(SHAPE, generator=generator) - 0.5
    if kind == "laplace":
        return -scale * 0.5**0.5 * drawn.sign() * (1 - 2 * drawn.abs()).clamp_min(1e-9).log()
    if kind == "uniform":
        return scale * 12**0.5 * drawn
    return scale * drawn.sign()


@pytest.mark.parametrize("scale", [1e-5, 3e-5, 1e-4])
@pytest.mark.parametrize("kind", ["laplace", "uniform", "sign"])
def test_dense_updates_of_any_distribution_have_no_place(kind: str, scale: float) -> None:
    """Rounded, they lean on small weights as noise of their own tails does, wherever they fall."""
    found = findings(20, BF16, 3, lambda _, seed: of_kind(kind, seed, scale))
    places = ("Prefers", "Avoids", "Drawn to", "Keeps out", "Concentrated", "Spread")
    assert not [sentence for sentence in found if sentence.startswith(places)], found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", None])
@pytest.mark.parametrize("stored", [FP32, BF16])
def test_noise_is_noise_whatever_it_is_stored_and_compared_in(
    stored: torch.dtype, dtype: str | None
) -> None:
    """A checkpoint rounded to bfloat16 stays so when it is stored, or compared, in float32."""
    base = weights(20, BF16, 5)
    tuned = {
        name: (weight.float() + noise(*SHAPE, seed=place, scale=3e-5)).bfloat16().to(stored)
        for place, (name, weight) in enumerate(base.items())
    }
    base = {name: weight.to(stored) for name, weight in base.items()}
    found = analyzed(base, tuned, dtype=dtype)
    assert found.findings[0].startswith(NOTHING), found.findings
    assert found.master is None
