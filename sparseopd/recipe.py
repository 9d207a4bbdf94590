"""The recipe: everything a run depends on, as small dataclasses a YAML file loads into.

    recipe = load("my.yaml", overrides=["train.steps=200", "optimizer.masked_lr=1e-3"])

All validation of values happens here, before anything heavy is imported: an unknown key is refused
with the nearest valid one, and a setting that would silently do nothing is an error. Each function
of the package is handed only its own section.
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import TypeAdapter, ValidationError

from sparseopd.combinations import check_combinations
from sparseopd.errors import RecipeError
from sparseopd.ranges import Seed
from sparseopd.settings.data import Data
from sparseopd.settings.models import Model, Teacher
from sparseopd.settings.objective import Objective, Rollout, without_foreign
from sparseopd.settings.optimizer import Optimizer
from sparseopd.settings.reading import apply_override, check_keys, read_yaml, sentence
from sparseopd.settings.training import Discover, Evaluate, Train

__all__ = [
    "BUNDLED_PREFIX",
    "Data",
    "Discover",
    "Evaluate",
    "Model",
    "Objective",
    "Optimizer",
    "Recipe",
    "Rollout",
    "Teacher",
    "Train",
    "build",
    "find",
    "load",
]

BUNDLED_PREFIX = "bundled:"
"""`bundled:tiny-arithmetic/student` names a file or folder that ships with the package."""


@dataclass(kw_only=True)
class Recipe:
    """One experiment: who learns what from whom, and how."""

    name: str = "run"
    student: Model
    teacher: Teacher | None = None
    teachers: dict[str, Teacher] = field(default_factory=dict)
    """Several teachers by name, in place of `teacher`; `data.teacher` routes the prompts."""
    data: Data
    objective: Objective = field(default_factory=Objective)
    rollout: Rollout = field(default_factory=Rollout)
    optimizer: Optimizer = field(default_factory=Optimizer)
    discover: Discover = field(default_factory=Discover)
    train: Train = field(default_factory=Train)
    evaluate: Evaluate = field(default_factory=Evaluate)
    seed: Seed = 0
    device: Literal["cpu", "cuda", "mps", "xpu"] | None = None
    """Default: the accelerator torch finds, else the CPU. Choose among several with
    CUDA_VISIBLE_DEVICES."""

    def all_teachers(self) -> dict[str, Teacher]:
        """Return the teachers by name; a single one is called "teacher"."""
        return self.teachers or ({"teacher": self.teacher} if self.teacher else {})

    def to_yaml(self) -> str:
        """Return the recipe as YAML that `load` reads back to an equal recipe."""
        return yaml.safe_dump(_plain(asdict(self)), sort_keys=False, allow_unicode=True)

    def digest(self) -> str:
        """Return 16 hex digits that identify the recipe."""
        return hashlib.blake2b(self.to_yaml().encode(), digest_size=8).hexdigest()


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a YAML recipe, or the recipe of a run folder, and apply `key.sub=value` overrides.

    Raises `RecipeError` with one sentence on anything wrong.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "recipe.yaml"
    values = read_yaml(file, f"the recipe {path}")
    if "studies" in values:
        raise RecipeError(
            f"{path} is a comparison, no recipe: run it with sparseopd compare {path}"
        )
    return build(values, overrides)


def find(name: str | Path) -> Path:
    """Return the path of a recipe: a file, a run folder, or a bundled name such as tiny-arithmetic.

    Bundled recipes stand in `recipes/tiny/` and `recipes/paper/` of the repository, and inside an
    installed package.
    """
    if Path(name).exists():
        return Path(name)
    package = Path(__file__).parent
    for root in (package, package.parent):
        for folder in ("tiny", "paper"):
            file = root / "recipes" / folder / f"{name}.yaml"
            if file.is_file():
                return file
    return Path(name)


def build(values: dict[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Make a recipe from nested dictionaries, validated and with local paths made absolute."""
    values = copy.deepcopy(values)
    _change_kind(values, overrides)
    for override in overrides:
        apply_override(values, override, _expand_paths)
    _expand_paths(values)
    check_keys(values, Recipe)
    try:
        recipe = TypeAdapter(Recipe).validate_python(values)
    except ValidationError as error:
        raise RecipeError(sentence(error)) from error
    check_combinations(recipe)
    _make_absolute(recipe)
    return recipe


def _change_kind(values: dict[str, Any], overrides: Sequence[str]) -> None:
    """Drop settings of the kind of objective that an override puts another one in the place of."""
    kinds = [
        text
        for key, _, text in (item.partition("=") for item in overrides)
        if key == "objective.kind"
    ]
    if kinds and isinstance(values.get("objective"), dict):
        values["objective"] = without_foreign({**values["objective"], "kind": kinds[-1]})


def _expand_paths(values: dict[str, Any]) -> None:
    """A model given as text is its path."""
    several = values.get("teachers")
    places = [(values, ["student", "teacher"])]
    if isinstance(several, dict):
        places.append((several, list(several)))
    for place, keys in places:
        for key in keys:
            if isinstance(place.get(key), str):
                place[key] = {"path": place[key]}


def _make_absolute(recipe: Recipe) -> None:
    """Pin local paths, so that the resolved recipe works from any folder."""
    for model in (recipe.student, *recipe.all_teachers().values()):
        model.path = _absolute(model.path)
    recipe.data.train = _absolute(recipe.data.train)
    recipe.data.test = _absolute(recipe.data.test) if recipe.data.test else None


def _absolute(path: str) -> str:
    if path.startswith(BUNDLED_PREFIX):
        return path
    local = os.path.expanduser(path)
    return os.path.abspath(local) if os.path.exists(local) else path


def _plain(value: Any) -> Any:
    """Tuples to lists, for YAML's safe dumper."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
