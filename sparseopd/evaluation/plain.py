"""Public benchmarks of models alone, without a recipe: no prompts, no pair, nothing to distil.

models = ["Qwen/Qwen3-0.6B", "other"]
settings = plain_settings(models, ["device=cpu"])
run_benchmarks(models, settings, Benchmarks(names=("arc_easy",)))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import yaml
from pydantic import TypeAdapter, ValidationError

from sparseopd.artifacts import ArmScores, Progress, Scores
from sparseopd.errors import RecipeError
from sparseopd.evaluation.arms import Arm, plain_arms
from sparseopd.evaluation.harness import (
    Benchmarks,
    OpenedTasks,
    benchmark_settings,
    open_tasks,
    run_tasks,
)
from sparseopd.evaluation.harness_figures import Outcome, rows_of
from sparseopd.evaluation.summary import bootstrap_options
from sparseopd.evaluation.teachers import free_memory
from sparseopd.pairs import load_model, load_processor, pick_device
from sparseopd.recipe import Evaluate, Model
from sparseopd.settings.reading import apply_override, check_keys, sentence
from sparseopd.versions import versions


@dataclass(kw_only=True)
class PlainData:
    """What is left of the data section."""

    chat_template: dict[str, Any] = field(default_factory=dict)
    """Variables for the chat template, such as enable_thinking."""


@dataclass(kw_only=True)
class PlainSettings:
    """What of a recipe applies to models that only run benchmarks, under the recipe's own keys."""

    student: Model
    """How every model is loaded; the path is the first one's."""
    data: PlainData = field(default_factory=PlainData)
    evaluate: Evaluate = field(default_factory=Evaluate)
    device: Literal["cpu", "cuda", "mps", "xpu"] | None = None

    def to_yaml(self) -> str:
        """Return the settings as YAML."""
        return yaml.safe_dump(asdict(self), sort_keys=False, allow_unicode=True)


def plain_settings(models: Sequence[str], overrides: Sequence[str]) -> PlainSettings:
    """Make the settings of models from `key.sub=value` words. Raises `RecipeError`."""
    values: dict[str, Any] = {"student": {"path": models[0]}}
    for override in overrides:
        apply_override(values, override)
    check_keys(values, PlainSettings)
    try:
        return TypeAdapter(PlainSettings).validate_python(values)
    except ValidationError as error:
        raise RecipeError(sentence(error)) from error


def run_benchmarks(
    models: Sequence[str], settings: PlainSettings, benchmarks: Benchmarks, *, progress: Progress
) -> Scores:
    """Run the tasks on every model; the others are set beside the first.

    Raises `RequestError` where a task or a model cannot be had.
    """
    arms = plain_arms(models)
    tasks = open_tasks(benchmarks)
    outcomes = [_run(arm, settings, tasks, progress) for arm in arms]
    return Scores(
        name="benchmarks",
        settings={
            **benchmark_settings(tasks),
            "batch_size": settings.evaluate.batch_size,
            "device": str(pick_device(settings.device)),
            "dtype": settings.student.dtype,
            **bootstrap_options(settings.evaluate),
            "versions": versions(),
        },
        arms=[
            ArmScores(name=arm.name, kind=arm.kind, path=arm.path, accuracy=None) for arm in arms
        ],
        benchmarks=rows_of(outcomes, bootstrap_options(settings.evaluate)),
    )


def _run(arm: Arm, settings: PlainSettings, tasks: OpenedTasks, progress: Progress) -> Outcome:
    """Load one model, run the tasks on it and let go of it."""
    free_memory()
    model = replace(settings.student, path=arm.path)
    return run_tasks(
        tasks,
        arm.name,
        load_model(model, device=pick_device(settings.device)),
        load_processor(model),
        settings=settings.evaluate,
        template=settings.data.chat_template,
        progress=progress,
    )
