"""LoRA and SHiRA arms that a student is too small for: told before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparseopd.comparison.run import plans
from sparseopd.comparison.settings import load
from sparseopd.errors import RecipeError


def test_arms_that_nobody_asked_for_are_left_out_with_a_sentence() -> None:
    [plan] = plans(load("tiny-arithmetic", ["discover.density=0.01"]))
    assert {arm.kind for arm in plan.study.arms.values()} == {"full", "masked"}
    assert [sentence.split(" was left out: ")[0] for sentence in plan.left_out] == ["LoRA", "SHiRA"]
    assert "rank 1 has" in plan.left_out[0]


def test_arms_that_fit_stay() -> None:
    [plan] = plans(load("tiny-arithmetic"))
    assert not plan.left_out and "LoRA" in plan.study.arms


def test_an_arm_that_was_asked_for_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    arms = "{full: {kind: full}, small: {kind: lora, density: 0.001}}"
    file.write_text(f"studies: {{one: {{recipe: tiny-arithmetic, arms: {arms}}}}}")
    with pytest.raises(RecipeError, match=r"the arm 'small' cannot be trained: .*rank 1 has"):
        plans(load(file))
