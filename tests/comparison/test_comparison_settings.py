"""A comparison's file: what loads, what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparseopd.comparison.settings import load
from sparseopd.errors import RecipeError

STUDY = """
name: mine
studies:
  one:
    recipe: tiny-arithmetic
    arms:
      full: {kind: full}
      found: {mask: {density: 0.1}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(STUDY)
    return path


def test_a_comparison_reads_back_to_itself(file: Path, tmp_path: Path) -> None:
    comparison = load(file, ["seeds=[3, 4]", "train.steps=7"])
    again = tmp_path / "again.yaml"
    again.write_text(comparison.to_yaml())
    assert load(again) == comparison
    assert comparison.recipes()["one"].train.steps == 7
    assert comparison.seeds == [3, 4]


def test_the_bundled_comparison_loads_and_names_four_pairs() -> None:
    comparison = load("recipes/tiny/paper.yaml")
    settings = [study.setting for study in comparison.studies.values()]
    assert settings == ["consolidation", "large → small", "self-distillation", "vision-language"]
    assert len(comparison.seeds) == 3


def test_any_recipe_is_a_comparison_with_every_control() -> None:
    comparison = load("tiny-digits", ["train.steps=5"])
    [study] = comparison.studies.values()
    selectors = {arm.mask.selector for arm in study.arms.values() if arm.mask}
    assert selectors == {"topk", "random", "low-magnitude", "principal", "off-principal"}
    assert {arm.kind for arm in study.arms.values()} == {"full", "masked", "lora", "shira"}
    likes = {arm.mask.like for arm in study.arms.values() if arm.mask}
    assert likes == {None, "tensor", "magnitude"}
    assert any(arm.reordered for arm in study.arms.values())
    assert comparison.recipes()["tiny-digits"].train.steps == 5


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["seed=3"], "seed=3 is one seed, and a comparison has several: give seeds="),
        (["seeds=[]"], "seeds is []: give one or more, each once"),
        (["seeds=[1, 1]"], "seeds is [1, 1]: give one or more, each once"),
        (["tune.factor=1"], "tune.factor is 1: give 1.1 or more"),
        (["tune.seeds=4"], "tune.seeds is 4, and there are 3 seeds"),
        (["tune.trails=4"], "did you mean tune.trials?"),
        (["train.stepz=4"], "did you mean train.steps?"),
        (["margin=7"], "recipe key margin is 7"),
        (["pass_at=[16]"], "pass_at has 16 and evaluate.samples is 4: raise evaluate.samples"),
        (["studies.one.arms.found.mask=null"], "'found' is masked, and has no mask"),
        (["studies.one.arms.full.mask={}"], "'full' is full, and a mask does nothing there"),
        (["studies.one.arms.source={kind: full}"], "the arm source is always there; drop it"),
        (["studies.one.arms.full.rates=[1]", "studies.one.arms.full.lr=1"], "both lr and rates"),
        (["studies.one.arms.found.mask.of=grpo"], "nothing is called 'grpo' under explore"),
        (["studies.one.geometry=[sft]"], "nothing is called 'sft' under explore, only opd"),
        (["studies.one.arms.found.mask.like=tensor"], "mask.like does nothing with topk"),
        (
            ["studies.one.arms.found.mask={selector: principal, steps: 3}"],
            "mask.of, steps and seed do nothing with principal",
        ),
        (["studies.one.recipe=nowhere.yaml"], "cannot read the recipe nowhere.yaml"),
    ],
)
def test_a_wrong_comparison_is_one_sentence(file: Path, words: list[str], sentence: str) -> None:
    with pytest.raises(RecipeError) as raised:
        load(file, words)
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_words_of_the_recipe_reach_every_study(tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text(STUDY + "  two: {recipe: tiny-digits}\n")
    recipes = load(file, ["train.batch_size=4"]).recipes()
    assert {recipe.train.batch_size for recipe in recipes.values()} == {4}
