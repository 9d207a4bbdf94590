"""The authors' own scripts on a small pair of checkpoints (reference/figures.json), figure by figure.

Counts and shares must be equal, all else within 1e-3. Two of their figures carry fewer correct digits than
that, because they are the small difference of large float32 numbers; those are held to float64 references
here, and the authors' values to what float32 can have done to them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from sparseopd.analysis import Analysis, AnalysisSettings, analyze
from tests.analysis.checkpoints import write
from tests.conftest import make_qwen3

HERE = Path(__file__).parent / "reference"
Rows = dict[str, dict[str, Any]]
Pair = dict[str, tuple[np.ndarray, np.ndarray]]

THEIRS: dict[str, Any] = json.loads((HERE / "figures.json").read_text())
NAMES = sorted(THEIRS["tensors"])
COUNTED = ("share_", "coverage_", "numerical_rank_")
ROTATION = "subspace_rotation_"
RANKS = (1, 5, 10, 20)
UNIT = 2.0**-24
"""The unit roundoff of float32."""
LEAST_EXACT = "model.layers.1.self_attn.v_proj.weight"
"""The one tensor whose drift the authors have to fewer than three digits."""


@pytest.fixture(scope="module")
def ours() -> Analysis:
    settings = AnalysisSettings(draws=0)
    return analyze(str(HERE / "base"), str(HERE / "tuned"), settings=settings)


@pytest.fixture(scope="module")
def rows(ours: Analysis) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in ours.tensors}


@pytest.fixture(scope="module")
def pair() -> Pair:
    """Both sides of every tensor in float64."""
    base, tuned = (load_file(HERE / side / "model.safetensors") for side in ("base", "tuned"))
    return {name: (base[name].double().numpy(), tuned[name].double().numpy()) for name in base}


def moved_matrices() -> list[str]:
    return [name for name in NAMES if THEIRS["tensors"][name].get("spectral_drift") is not None]


def sines(before: np.ndarray, after: np.ndarray, rank: int) -> np.ndarray:
    """Sines of the principal angles between the left leading subspaces, by LAPACK in float64."""
    count = max(1, int(rank / 100 * min(before.shape)))
    one, other = (
        np.linalg.svd(side, full_matrices=False)[0][:, :count] for side in (before, after)
    )
    return np.linalg.svd(other - one @ (one.T @ other), compute_uv=False)


def drift(before: np.ndarray, after: np.ndarray) -> float:
    one, other = (np.linalg.svd(side, compute_uv=False) for side in (before, after))
    return float(np.linalg.norm(other - one) / np.linalg.norm(one))


def test_every_tensor_is_there(rows: Rows) -> None:
    assert sorted(rows) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_figures_of_a_tensor_are_the_authors(name: str, rows: Rows) -> None:
    theirs, row = THEIRS["tensors"][name], rows[name]
    assert row["shape"] == theirs["shape"]
    for figure in theirs.keys() - {"shape"}:
        wanted, found = theirs[figure], row["observed"][figure]
        if figure.startswith(ROTATION) or (figure, name) == ("spectral_drift", LEAST_EXACT):
            assert (found is None) == (wanted is None), figure
        elif wanted is None or figure.startswith(COUNTED):
            assert found == wanted, figure
        else:
            assert found == pytest.approx(wanted, rel=1e-3), figure


@pytest.mark.parametrize("figure", sorted(THEIRS["whole_model"]))
def test_figures_of_the_whole_model_are_the_authors(figure: str, ours: Analysis) -> None:
    wanted, found = THEIRS["whole_model"][figure], ours.whole["observed"][figure]
    if figure.startswith(("share_", "median_coverage_")):
        assert found == wanted
    else:
        assert found == pytest.approx(wanted, rel=1e-3)


def test_rotations_are_those_of_float64(rows: Rows, pair: Pair) -> None:
    for name in moved_matrices():
        for rank in RANKS:
            found = rows[name]["observed"][f"{ROTATION}{rank}pct"]
            assert found == pytest.approx(sines(*pair[name], rank).mean(), rel=1e-6), (name, rank)


def test_the_authors_rotations_lie_within_the_error_of_float32(pair: Pair) -> None:
    """They take √(1 - cos²) in float32, where cos is a singular value of UₖᵀU'ₖ: of the left side alone.

    A sum of d products errs by about √d units of roundoff u (Higham and Mary 2019), so cos by e = √d·u,
    1 - cos² by δ = 2e, and its root by δ/(s + √|s² - δ|) ≤ min(√δ, δ/s) for a sine s. Here δ is about 1e-6:
    of an angle of 1e-3 no digit is left, of one of 1e-2 two are.
    """
    for name in moved_matrices():
        slack = 2 * len(pair[name][0]) ** 0.5 * UNIT
        for rank in RANKS:
            theirs, side = THEIRS["tensors"][name][f"{ROTATION}{rank}pct"], sines(*pair[name], rank)
            bound = np.minimum(slack**0.5, slack / side).mean()
            assert abs(theirs - side.mean()) <= bound, (name, rank)


def test_large_rotations_are_the_authors_within_a_few_percent(
    rows: Rows,
) -> None:
    large = [name for name in NAMES if "o_proj" in name]
    assert len(large) == 3
    for name in large:
        for rank in RANKS:
            wanted = THEIRS["tensors"][name][f"{ROTATION}{rank}pct"]
            assert rows[name]["observed"][f"{ROTATION}{rank}pct"] == pytest.approx(wanted, rel=0.05)


def test_drifts_are_those_of_float64(rows: Rows, pair: Pair) -> None:
    for name in moved_matrices():
        found = rows[name]["observed"]["spectral_drift"]
        assert found == pytest.approx(drift(*pair[name]), rel=1e-6), name


def test_one_drift_of_the_authors_is_off_by_what_float32_loses(rows: Rows, pair: dict) -> None:
    """Each float32 singular value errs by about u·σ₁, so a vector of n differences by √n·2u·σ₁."""
    gaps = {
        name: abs(THEIRS["tensors"][name]["spectral_drift"] - drift(*pair[name]))
        for name in moved_matrices()
    }
    beyond = [name for name, gap in gaps.items() if gap > 1e-3 * drift(*pair[name])]
    assert beyond == [LEAST_EXACT]
    values = np.linalg.svd(pair[LEAST_EXACT][0], compute_uv=False)
    lost = len(values) ** 0.5 * 2 * UNIT * values[0] / np.linalg.norm(values)
    assert gaps[LEAST_EXACT] < lost


def test_shards_change_nothing(tmp_path: Path) -> None:
    settings = AnalysisSettings(draws=2, include=("model.embed*", "model.norm*", "*layers.0.*"))
    config = json.loads((HERE / "base" / "config.json").read_text())
    cut = {}
    for side, shards in (("base", 3), ("tuned", 5)):
        tensors = load_file(HERE / side / "model.safetensors")
        cut[side] = str(write(tmp_path / side, tensors, config, shards))
    whole = analyze(str(HERE / "base"), str(HERE / "tuned"), settings=settings)
    sharded = analyze(cut["base"], cut["tuned"], settings=settings)
    assert sharded.tensors == whole.tensors
    assert (sharded.whole, sharded.groups) == (whole.whole, whole.groups)
    assert (sharded.verdicts, sharded.findings) == (whole.verdicts, whole.findings)


def test_models_in_memory_give_the_figures_of_their_folders(tmp_path: Path) -> None:
    base, tuned = make_qwen3(0).bfloat16(), make_qwen3(1).bfloat16()
    for name, model in (("base", base), ("tuned", tuned)):
        model.save_pretrained(tmp_path / name)
    settings = AnalysisSettings(draws=2)
    held = analyze(base, tuned, settings=settings)
    stored = analyze(str(tmp_path / "base"), str(tmp_path / "tuned"), settings=settings)
    assert held.tensors == stored.tensors
    assert (held.whole, held.findings) == (stored.whole, stored.findings)
