"""Every bundled recipe runs two steps from the command line, discovery and masked training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparseopd.artifacts import RunDir
from tests.integration.conftest import SHORT, Command

RECIPES = Path(__file__).parents[2] / "recipes" / "tiny"
TWO = [*SHORT, "train.steps=2", "discover.steps=2", "discover.check_every=0"]


NAMES = sorted(
    path.stem for path in RECIPES.glob("*.yaml") if "studies:" not in path.read_text()
)  # a comparison is no recipe


@pytest.mark.parametrize("name", NAMES)
def test_two_steps(name: str, tmp_path: Path, sparseopd: Command) -> None:
    found, sparse = tmp_path / "found", tmp_path / "sparse"
    ran = sparseopd("discover", name, *TWO, "-o", found)
    assert not ran.code, ran.err
    ran = sparseopd("train", found, "--mask", found / "mask.safetensors", "-o", sparse)
    assert not ran.code, ran.err
    rows = RunDir(sparse).read_metrics()
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert {"loss", "kl", "entropy", "truncated", "tokens_per_second", "memory_gib"} <= set(row)
    kept = [json.loads(line) for line in (sparse / "completions.jsonl").read_text().splitlines()]
    assert len(kept) == 4 and all(row["prompt"] and row["step"] == 0 for row in kept)
    ran = sparseopd("evaluate", sparse, "-o", tmp_path / "scored")
    assert not ran.code, ran.err
    assert (tmp_path / "scored" / "report.html").stat().st_size > 10_000
