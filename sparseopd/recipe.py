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
from typing import Any, Literal, get_args, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from sparseopd.combinations import check_combinations
from sparseopd.errors import RecipeError
from sparseopd.optimizer_settings import Optimizer
from sparseopd.ranges import Confidence, Count, CountOrZero, Dtype, Fraction, Positive, Seed
from sparseopd.selection import Selection

BUNDLED_PREFIX = "bundled:"
"""`bundled:tiny-arithmetic/student` names a file or folder that ships with the package."""


@dataclass(kw_only=True)
class Model:
    """A checkpoint: a local folder, a hub id, or `bundled:NAME`."""

    path: str
    revision: str | None = None
    dtype: Dtype = "float32"
    """What the weights are held in. Full runs want float32 masters; a masked run keeps fp32 masters
    of its own coordinates, so bfloat16 is enough there."""
    trust_remote_code: bool = False


@dataclass(kw_only=True)
class Data:
    """Prompts with, if they can be graded, answers: hub id, JSON(L), Parquet, or `bundled:NAME`."""

    train: str
    test: str | None = None
    """Held-out prompts. Without it, `holdout` rows are split off `train`."""
    train_split: str = "train"
    test_split: str = "test"
    """Split names, used when the data set comes from the hub."""
    holdout: Count = 256
    holdout_seed: Seed = 0
    """Chooses the rows held out; apart from the recipe's seed, so that every seed trains and is
    tested on the same prompts."""
    prompt: str | None = None
    """Column of the prompt: text or chat messages. Default: `messages`, else `prompt`."""
    answer: str | None = None
    """Column of the reference answer. Default: `answer` if there is one."""
    image: str | None = None
    """Column of the image or images. Default: `images` or `image` if there is one."""
    system: str | None = None
    """A system message put before prompts that are plain text."""
    grader: str | None = None
    """exact, numeric, regex:PATTERN, package.module:function, or none. Default: exact where there
    are answers, else none."""
    limit: Count | None = None
    """Use only the first rows of `train`."""


@dataclass(kw_only=True)
class Objective:
    """The divergence between student and teacher on the student's rollouts (PAPER.md, §2)."""

    kind: Literal["reverse-kl", "forward-kl", "jsd"] = "reverse-kl"
    beta: Fraction | None = None
    """Only for `jsd`: the generalized Jensen-Shannon interpolation, 0.5 by default."""


@dataclass(kw_only=True)
class Rollout:
    """How the student samples, in training and in evaluation."""

    max_new_tokens: Count = 512
    temperature: Positive = 1.0
    top_p: Fraction = 1.0
    top_k: CountOrZero = 0


@dataclass(kw_only=True)
class Discover(Selection):
    """The short full run whose update becomes the mask; how it is chosen is a `Selection`."""

    steps: Count = 50
    """Updates; the most of them where `until_stable` may end the run earlier."""
    saliency: Literal["gradient", "momentum"] | None = None
    """Only for the selector saliency: what of the optimizer's view ranks a coordinate, Σ|g| over the
    run (the default) or |m|/√v after it."""
    check_every: CountOrZero | None = None
    """Compare the top-k mask with the one this many steps before; a tenth of `steps` by default, and
    at least two. 0 never does, which saves the time on a large model."""
    until_stable: Fraction | None = None
    """Stop once the Jaccard index of two such masks at this density reaches it."""
    snapshots: list[Count] = field(default_factory=list)
    """Steps after which the mask so far is kept, in `masks/step-N.safetensors`."""


@dataclass(kw_only=True)
class Train:
    """The length and shape of training, shared by discovery, full and masked runs."""

    steps: Count = 150
    """Optimizer updates of a full or masked run."""
    batch_size: Count = 32
    """Prompts per optimizer update."""
    micro_batch_size: Count | None = None
    """Prompts per forward and backward; must divide batch_size. Default: batch_size."""
    gradient_checkpointing: bool = False
    bf16: bool | None = None
    """Autocast to bfloat16. Default: on a GPU that has it, off on the CPU."""
    log_every: Count = 1
    save_every: CountOrZero = 0
    """Steps between two states that `train --resume` can go on from; 0 for none. Only the last is kept,
    until the run has ended. Discovery keeps none."""
    save_dtype: Literal["source", "float32"] = "source"
    """What the trained checkpoint is stored in: the source checkpoint's dtype, or the fp32 masters."""


@dataclass(kw_only=True)
class Evaluate:
    """The shared held-out comparison."""

    prompts: Count = 256
    samples: Count = 4
    """Samples a prompt (the n of mean@n)."""
    batch_size: Count = 64
    seed: Seed = 1234
    resamples: Count = 2000
    """Bootstrap resamples."""
    confidence: Confidence = 0.95


@dataclass(kw_only=True)
class Recipe:
    """One experiment: who learns what from whom, and how."""

    name: str = "run"
    student: Model
    teacher: Model
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

    Bundled recipes stand in `recipes/tiny/` of the repository, and inside an installed package.
    """
    if Path(name).exists():
        return Path(name)
    package = Path(__file__).parent
    for folder in (package / "recipes" / "tiny", package.parent / "recipes" / "tiny"):
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    return Path(name)


def build(values: dict[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Make a recipe from nested dictionaries, validated and with local paths made absolute."""
    values = copy.deepcopy(values)
    for override in overrides:
        _apply(values, override)
    values = {
        key: {"path": value} if key in ("student", "teacher") and isinstance(value, str) else value
        for key, value in values.items()
    }
    _check_keys(values, Recipe, "")
    try:
        recipe = TypeAdapter(Recipe).validate_python(values)
    except ValidationError as error:
        raise RecipeError(_sentence(error)) from error
    check_combinations(recipe)
    _make_absolute(recipe)
    return recipe


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise RecipeError(f"{override!r} is not an override: write key.sub=value")
    *sections, last = key.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if isinstance(inner, str) and section in ("student", "teacher"):
            inner = values[section] = {"path": inner}
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
        for inner in filter(is_dataclass, get_args(types[key]) if isinstance(value, list) else ()):
            for place, item in enumerate(value):
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
    recipe.student.path = _absolute(recipe.student.path)
    recipe.teacher.path = _absolute(recipe.teacher.path)
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
