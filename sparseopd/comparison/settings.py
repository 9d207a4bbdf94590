"""A comparison: which arms are trained on which pairs, with which seeds; a YAML file loads into it.

    comparison = load("recipes/tiny/paper.yaml", ["seeds=[0]", "train.steps=20"])

A file with `studies` is a comparison. Any other recipe is a comparison of one study, with the arms of
`default_arms`. Words whose first key is a comparison's own change it; all others are recipe keys, and
go to every study. Imports no torch.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from sparseopd import recipe as recipes
from sparseopd.comparison.arms import Arm, Exploration, check_arms, default_arms, explorations
from sparseopd.errors import RecipeError
from sparseopd.ranges import Confidence, Count, Fraction, Positive, Seed
from sparseopd.recipe import Recipe
from sparseopd.settings.reading import apply_override, check_keys, read_yaml, sentence

LEAST_FACTOR = 1.1


@dataclass(kw_only=True)
class Tune:
    """How every arm finds its learning rate: on prompts held out of training, by as many trials each."""

    prompts: Count = 256
    """Validation prompts: the last rows of the training data, which no run of a comparison trains on."""
    samples: Count = 2
    factor: Positive = 2.0
    """Between two learning rates that are tried next to each other."""
    trials: Count = 4
    """Learning rates that every arm tries; arms with `rates` of their own try those."""
    seeds: Count = 1
    """Each trial is run with the first so many seeds."""


@dataclass(kw_only=True)
class Study:
    """One pair and what is done with it."""

    recipe: str
    """A recipe's file or bundled name."""
    title: str = ""
    setting: str = ""
    """The paper's setup it stands for: "large → small", "consolidation", …"""
    settings: list[str] = field(default_factory=list)
    """Recipe keys, `key.sub=value`, for all runs of the study."""
    explore: dict[str, Exploration] = field(default_factory=dict)
    """Full runs, not tuned, to find masks in and to look at; "opd", the recipe itself, is always there."""
    arms: dict[str, Arm] = field(default_factory=dict)
    """Besides source and teacher. Default: `default_arms`."""
    geometry: list[str] = field(default_factory=list)
    """Explorations whose updates are analysed beside nulls."""
    overlaps: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """Explorations whose supports are compared, by question: methods, teachers, tasks."""
    settling: bool = False
    """Whether the mask of "opd" after each of its snapshots is set beside the last."""
    other_task: str | None = None
    """Prompts of another task (JSONL, Parquet…), on which forgetting is measured."""


@dataclass(kw_only=True)
class Comparison:
    """Arms × seeds, on one pair or several."""

    name: str = "comparison"
    studies: dict[str, Study]
    seeds: list[Seed] = field(default_factory=lambda: [0, 1, 2])
    tune: Tune = field(default_factory=Tune)
    margin: Fraction = 0.03
    """Accuracy within which an arm counts as equivalent to full training."""
    confidence: Confidence = 0.95
    resamples: Count = 2000
    pass_at: list[Count] = field(default_factory=list)
    """The k of pass@k. Default: 1 and the number of samples."""
    workers: Count | None = None
    """Processes that work at the same time. Default: one for each GPU, or for each CPU core."""
    threads: Count | None = None
    """CPU threads of each. Default: the cores, shared among the workers. Decides the last bits."""

    def recipes(self) -> dict[str, Recipe]:
        """Return each study's recipe, resolved."""
        return {name: recipe_of(study) for name, study in self.studies.items()}

    def to_yaml(self) -> str:
        """Return the comparison as YAML that `load` reads back to an equal one."""
        values = {key: value for key, value in asdict(self).items() if value is not None}
        return yaml.safe_dump(_plain(values), sort_keys=False, allow_unicode=True)


def recipe_of(study: Study, settings: Sequence[str] = ()) -> Recipe:
    """Return a study's recipe with more settings than its own."""
    return recipes.load(recipes.find(study.recipe), [*study.settings, *settings])


def load(path: str | Path, words: Sequence[str] = ()) -> Comparison:
    """Read a comparison, or make one of a recipe. Raises `RecipeError` with one sentence."""
    file = recipes.find(path)
    if file.is_dir():
        file = file / ("comparison.yaml" if (file / "comparison.yaml").exists() else "recipe.yaml")
    values = copy.deepcopy(read_yaml(file, f"the recipe {path}"))
    if "studies" not in values:
        name = values.get("name", Path(path).stem)
        values = {"name": name, "studies": {str(name): {"recipe": str(path)}}}
    own = {item.name for item in fields(Comparison)}
    for word in words:
        key = word.partition("=")[0].partition(".")[0]
        if key in own:
            apply_override(values, word)
            continue
        if key == "seed":
            raise RecipeError(
                f"{word} is one seed, and a comparison has several: give seeds=[0, 1, 2]"
            )
        for study in _studies(values):
            study["settings"] = [*(study.get("settings") or []), word]
    check_keys(values, Comparison)
    try:
        comparison = TypeAdapter(Comparison).validate_python(values)
    except ValidationError as error:
        raise RecipeError(sentence(error)) from error
    return _completed(comparison)


def _completed(comparison: Comparison) -> Comparison:
    """Fill in what depends on the recipes, and refuse what contradicts itself."""
    if not comparison.studies:
        raise RecipeError("a comparison needs a study: add one under studies")
    if len(set(comparison.seeds)) < len(comparison.seeds) or not comparison.seeds:
        raise RecipeError(f"seeds is {comparison.seeds}: give one or more, each once")
    if comparison.tune.factor < LEAST_FACTOR:
        raise RecipeError(
            f"tune.factor is {comparison.tune.factor:g}: give {LEAST_FACTOR} or more, rates need to differ"
        )
    if comparison.tune.seeds > len(comparison.seeds):
        raise RecipeError(
            f"tune.seeds is {comparison.tune.seeds}, and there are {len(comparison.seeds)} seeds"
        )
    studies = {}
    for name, study in comparison.studies.items():
        recipe = recipe_of(study)
        study = replace(
            study,
            recipe=_absolute(study.recipe),
            other_task=None if study.other_task is None else _absolute(study.other_task),
            arms=study.arms or default_arms(recipe),
            explore=explorations(study.explore),
        )
        for arm_name, arm in study.arms.items():
            further = arm.mask.seed if arm.mask else 0
            if further and len(comparison.seeds) > 1 and further % len(comparison.seeds) == 0:
                raise RecipeError(
                    f"{name}: the arm {arm_name!r} takes the mask {further} seeds on, which of "
                    f"{len(comparison.seeds)} seeds is its own: give another mask.seed"
                )
        check_arms(name, study.arms, study.explore, [*study.geometry, *_compared(study)])
        for more in (*study.arms.values(), *study.explore.values()):
            recipe_of(study, more.settings)
        studies[name] = study
    samples = {recipe.evaluate.samples for recipe in map(recipe_of, studies.values())}
    pass_at = comparison.pass_at or sorted({1, min(samples)})
    if max(pass_at) > min(samples):
        raise RecipeError(
            f"pass_at has {max(pass_at)} and evaluate.samples is {min(samples)}: raise evaluate.samples"
        )
    return replace(comparison, studies=studies, pass_at=pass_at)


def _studies(values: dict[str, Any]) -> list[dict[str, Any]]:
    studies = values["studies"]
    found = list(studies.values()) if isinstance(studies, dict) else [studies]
    if not found or not all(isinstance(study, dict) for study in found):
        raise RecipeError("studies must name at least one study, each a mapping with a recipe")
    return found


def _absolute(path: str) -> str:
    """Pin a local path, so that the resolved comparison works from any folder."""
    local = Path(path).expanduser()
    return str(local.absolute()) if local.exists() else path


def _compared(study: Study) -> list[str]:
    return [name for pairs in study.overlaps.values() for pair in pairs for name in pair]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item not in (None, [], {})}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
