"""What is called structure: the test, its corrections, and what counts as material."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student

from sparseopd.analysis.aggregate import together
from sparseopd.analysis.verdict import MATERIAL, SIGNIFICANT, difference, even, family_of, verdicts

SIMULATIONS = 400

Sample = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def shares_below(sample: Sample, parts: int, draws: int, levels: tuple[float, ...]) -> list[float]:
    """How often p falls below each level where the observed is of the draws' making."""
    generator = np.random.default_rng(parts * 100 + draws)
    found = []
    for _ in range(SIMULATIONS):
        values = sample(generator, (parts, draws + 1))
        found.append(difference(values[:, 0], values[:, 1:])[1])
    return [float((np.array(found) < level).mean()) for level in levels]


def bounds(level: float) -> tuple[float, float]:
    """Four standard deviations of a share of `SIMULATIONS`."""
    spread = 4 * (level * (1 - level) / SIMULATIONS) ** 0.5
    return level - spread, level + spread


@pytest.mark.parametrize(("parts", "draws"), [(1, 24), (4, 6), (20, 3), (200, 2)])
def test_p_is_uniform_where_nothing_differs(parts: int, draws: int) -> None:
    sizes = np.linspace(0.1, 0.9, parts)[:, None]

    def sample(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        return sizes * (1 + 0.05 * generator.normal(size=shape))

    for level, share in zip(
        (0.05, 0.5), shares_below(sample, parts, draws, (0.05, 0.5)), strict=True
    ):
        low, high = bounds(level)
        assert low <= share <= high


def test_parts_that_cannot_stray_lend_no_confidence() -> None:
    """Nineteen matrices did not move, so their draws are all equal: one alone has something to say."""

    def sample(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        values = np.ones(shape)
        values[0] += 0.05 * generator.normal(size=shape[1])
        return values

    (share,) = shares_below(sample, 20, 3, (0.01,))
    assert share <= bounds(0.01)[1]


def test_small_and_large_parts_may_stray_differently() -> None:
    """A small matrix strays a hundred times as far as a large one, and its few draws decide."""
    sizes = np.array([0.5] + [0.005] * 19)[:, None]

    def sample(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        return 10 + sizes * generator.normal(size=shape)

    (share,) = shares_below(sample, 20, 3, (0.01,))
    assert share <= 0.05


@pytest.mark.parametrize(("parts", "draws"), [(20, 3), (100, 3), (4, 6)])
def test_skewed_figures_do_not_pass_for_structure(parts: int, draws: int) -> None:
    """The energy on one direction is a squared normal number: its mean over three draws is often tiny."""

    def sample(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        return even("projection_energy_1pct", generator.normal(size=shape) ** 2)

    (share,) = shares_below(sample, parts, draws, (0.001,))
    assert share <= 0.025


@pytest.mark.parametrize(("parts", "draws"), [(1, 24), (4, 6), (20, 3)])
def test_a_rare_count_does_not_pass_for_structure(parts: int, draws: int) -> None:
    """One coordinate that did not move where no draw has any is no finding, however certain."""

    def sample(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        return generator.poisson(0.5 / (parts * draws), size=shape) / 6144

    (share,) = shares_below(sample, parts, draws, (1e-4,))
    assert share <= 0.02


@pytest.mark.parametrize(("parts", "draws"), [(1, 24), (4, 6), (20, 3)])
@pytest.mark.parametrize("shift", [0.9, 1.1])
def test_a_planted_shift_is_found(parts: int, draws: int, shift: float) -> None:
    drawn = 0.3 * (1 + 0.01 * np.random.default_rng(1).normal(size=(parts, draws)))
    t, p = difference(np.full(parts, 0.3 * shift), drawn)
    assert p < 1e-5
    assert np.sign(t) == np.sign(shift - 1)


def test_draws_without_spread_differ_from_anything_else() -> None:
    """A rank is counted in whole numbers, so its draws stray by half of one at least."""
    z, p = difference(np.full(20, 2.0), np.full((20, 3), 96.0), 0.5)
    assert z < -5 and p < 1e-9
    assert difference(np.full(20, 96.0), np.full((20, 3), 96.0)) == (0.0, 1.0)


def test_one_draw_says_nothing() -> None:
    assert difference(np.ones(20), np.zeros((20, 1))) == (0.0, 1.0)


def row(name: str, **figures: tuple[float, list[float], list[float]]) -> dict[str, Any]:
    """A matrix's figures: observed, shuffled draws, gaussian draws."""
    plain = {"delta_fro": 1.0, "relative_norm": 1.0, "base_rms": 1.0}
    draws = len(next(iter(figures.values()))[1])
    row: dict[str, Any] = {
        "name": name,
        "module": name,
        "layer": 0,
        "block": "ffn",
        "planar": True,
        "shape": [10, 10],
        "numel": 10**12,
        "observed": plain | {figure: of[0] for figure, of in figures.items()},
    }
    for place, kind in ((1, "shuffled"), (2, "gaussian")):
        row[kind] = {figure: [1.0] * draws for figure in plain}
        row[kind] |= {figure: of[place] for figure, of in figures.items()}
    return row


def judged(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return verdicts(rows, together(rows, rows), {})[0]


def around(middle: float, seed: int, spread: float = 1e-3, draws: int = 10) -> list[float]:
    return list(middle * (1 + spread * np.random.default_rng(seed).normal(size=draws)))


def test_p_is_corrected_as_holm_does() -> None:
    names = [f"svd_energy_top{count}" for count in (1, 2, 4, 8, 16)]
    rows = [
        row(
            str(part),
            **{
                name: (
                    0.3 + 0.004 * place,
                    around(0.3, part + 9 * place, 0.02),
                    around(0.3, part, 0.02),
                )
                for place, name in enumerate(names)
            },
        )
        for part in range(3)
    ]
    found = judged(rows)
    raw, corrected = [], []
    for name in names:
        own = np.array([one["observed"][name] for one in rows])
        for kind in ("shuffled", "gaussian"):
            drawn = np.array([one[kind][name] for one in rows])
            apart = difference(even(name, own), even(name, drawn))[1]
            spread = drawn.var(1, ddof=1) * (1 + 1 / 10)
            freedom = 9 * spread.sum() ** 2 / (spread**2).sum()
            far = abs((own - drawn.mean(1)).sum()) / spread.sum() ** 0.5
            raw.append(min(1.0, 2 * min(apart, 2 * student.sf(far, freedom))))
            corrected.append(found[name][kind]["p"])
    worst = 0.0
    for rank, place in enumerate(np.argsort(raw)):
        worst = max(worst, min(1.0, raw[place] * (len(raw) - rank)))
        assert corrected[place] == pytest.approx(worst)
    assert min(raw) < SIGNIFICANT < max(raw)


@pytest.mark.parametrize("null", [0.3, 0.7])
def test_small_differences_are_none_however_certain(null: float) -> None:
    for share, differs in ((0.5, False), (2.0, True)):
        own = null + share * MATERIAL * 0.3  # of what is nearer, 0 or 1
        figure = {"share_zero": (own, around(null, 1, 1e-6), around(null, 2, 1e-6))}
        for kind in ("shuffled", "gaussian"):
            seen = judged([row("w", **figure)])["share_zero"][kind]
            assert seen["p"] < SIGNIFICANT
            assert seen["differs"] is differs


def test_shares_next_to_none_or_all_need_more_than_a_trace() -> None:
    """That 0.01 % of the coordinates stand still where all of noise moves is nothing to tell."""
    for own, null in ((1e-4, 0.0), (1 - 1e-4, 1.0), (1 - 1e-9, 1 - 2e-9)):
        figure = (own, [null] * 10, [null] * 10)
        seen = judged([row(str(part), share_zero=figure) for part in range(5)])["share_zero"]
        assert not seen["structure"], (own, null)


def test_energies_of_every_direction_differ_by_rounding_alone() -> None:
    """Sixteen directions of a matrix of sixteen rows hold everything, but for the last bits of a sum."""
    rows = [
        row(str(part), svd_energy_top16=(1 - 6e-9, [1.0, 1 + 1e-9] * 5, [1.0, 1 + 1e-9] * 5))
        for part in range(4)
    ]
    assert not judged(rows)["svd_energy_top16"]["structure"]


@pytest.mark.parametrize(
    ("figure", "shuffled", "gaussian", "structure"),
    [
        ("share_zero", 0.5, 0.4, True),  # shuffling keeps the zeros, so noise alone decides
        ("share_zero", 0.4, 0.5, False),
        ("svd_energy_top16", 0.4, 0.4, True),
        ("svd_energy_top16", 0.6, 0.6, True),
        ("svd_energy_top16", 0.5, 0.4, False),
        ("svd_energy_top16", 0.4, 0.5, False),
        ("svd_energy_top16", 0.6, 0.4, False),
        ("coverage_principal_10pct_alpha_0", 0.6, 0.4, False),
        ("coverage_principal_10pct_alpha_0", 0.6, 0.6, True),
    ],
)
def test_structure_is_what_neither_null_explains(
    figure: str, shuffled: float, gaussian: float, structure: bool
) -> None:
    rows = [
        row(str(part), **{figure: (0.5, around(shuffled, part), around(gaussian, part + 9))})
        for part in range(4)
    ]
    assert judged(rows)[figure]["structure"] is structure


def test_norms_are_not_judged_for_the_nulls_share_them() -> None:
    assert family_of("delta_fro") is None
    assert family_of("relative_norm") is None
    found = judged([row("w", share_zero=(0.5, around(0.5, 1), around(0.5, 2)))])
    assert list(found) == ["share_zero"]
