"""The recipe: everything a run depends on, as small dataclasses a YAML file loads into.

    recipe = load("my.yaml", overrides=["train.steps=200", "optimizer.masked_lr=1e-3"])

All validation of values happens here, before anything heavy is imported: an unknown key is refused
with the nearest valid one, and a setting that would silently do nothing is an error. Each function
of the package is handed only its own section.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from sparseopd.combinations import check_combinations
from sparseopd.errors import RecipeError
from sparseopd.ranges import Seed
from sparseopd.settings.data import Data
from sparseopd.settings.models import Model, Teacher
from sparseopd.settings.objective import Objective, Rollout, without_foreign
from sparseopd.settings.optimizer import Optimizer
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
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"the recipe {path} is not UTF-8 text") from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"the recipe {path} is not valid YAML: {reason}") from error
    if not isinstance(values, dict):
        raise RecipeError(
            f"the recipe {path} must be a mapping of keys, not {type(values).__name__}"
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
        _apply(values, override)
    _expand_paths(values)
    _check_keys(values, Recipe, "")
    try:
        recipe = TypeAdapter(Recipe).validate_python(values)
    except ValidationError as error:
        raise RecipeError(_sentence(error)) from error
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


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise RecipeError(f"{override!r} is not an override: write key.sub=value")
    *sections, last = key.split(".")
    for section in sections:
        _expand_paths(values)
        inner = values.setdefault(section, {})
        if isinstance(inner, str) and sections[0] == "teachers":
            inner = values[section] = {"path": inner}
        if inner is None:
            inner = values[section] = {}
        if not isinstance(inner, dict):
            raise RecipeError(f"{key} cannot be set: {section} is a value, not a section")
        values = inner
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"the value of {key} is not valid YAML: {text!r}") from error


def _check_keys(values: Any, kind: type, prefix: str) -> None:
    """Refuse unknown keys before pydantic sees them, to name the nearest valid one."""
    if not isinstance(values, dict):
        return
    types = get_type_hints(kind)
    valid = [item.name for item in fields(kind)]  # pyright: ignore[reportArgumentType]
    for key, value in values.items():
        if key not in valid:
            near = difflib.get_close_matches(str(key), valid, n=1, cutoff=0.5)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"valid here: {', '.join(valid)}"
            raise RecipeError(f"unknown recipe key {prefix}{key}: {hint}")
        if is_dataclass(types[key]):
            _check_keys(value, types[key], f"{prefix}{key}.")  # pyright: ignore[reportArgumentType]
        for inner in filter(is_dataclass, get_args(types[key])):
            if isinstance(value, list):
                items = list(enumerate(value))
            elif isinstance(value, dict) and get_origin(types[key]) is dict:
                items = list(value.items())
            else:
                items = []
                _check_keys(value, inner, f"{prefix}{key}.")  # pyright: ignore[reportArgumentType]
            for place, item in items:
                _check_keys(item, inner, f"{prefix}{key}.{place}.")  # pyright: ignore[reportArgumentType]


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(
        str(part) for part in first["loc"] if not str(part).startswith(("function", "constrained"))
    )
    if first["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"the recipe lacks {key}: add it, or give it on the command line"
    message = first["msg"].removeprefix("Input ")
    return f"recipe key {key} is {first['input']!r}, which is not allowed: it {message}"


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
