"""What an evaluation compares: finished runs, models, and the pair they start from and aim at."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sparseopd.artifacts import RunDir, RunFacts
from sparseopd.errors import RequestError, RunFolderError
from sparseopd.masks import Mask, layout
from sparseopd.recipe import BUNDLED_PREFIX, Model, Recipe, load

_RANK = {"source": 0, "teacher": 2}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One model under evaluation."""

    name: str
    kind: str
    """"source", "teacher", "full", "contrast", "masked", "lora", "shira" or "model"."""
    path: str
    """The checkpoint's folder, hub id or `bundled:` name."""
    run: RunDir | None = None
    """The run that trained it, if one did."""
    teacher: str = "teacher"
    """Only for a teacher: its name among the recipe's."""


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """What an arm's run says of its training; all empty for a model without one."""

    density: float | None = None
    lr: float | None = None
    steps: int | None = None
    seconds: float | None = None
    curve: list[dict[str, Any]] = field(default_factory=list)
    layout: list[dict[str, Any]] = field(default_factory=list)
    stability: list[dict[str, float]] = field(default_factory=list)


def arms_for(
    runs: Sequence[RunDir | str | Path],
    recipe: Recipe,
    *,
    source: bool = True,
    teacher: bool = True,
) -> list[Arm]:
    """Return the arms for runs or models, between the recipe's source and its teachers.

    Arms of the same name are told apart by a suffix: `full`, `full-2`. Each of several teachers is an
    arm that answers all prompts, though training asked it only about its own. One on a server is none.

    Raises:
        RunFolderError: a run is unfinished or, like a discovery, left no checkpoint; or a local
            path holds neither a run nor a model.
    """
    first = [Arm(name="source", kind="source", path=recipe.student.path)] if source else []
    last = _teacher_arms(recipe) if teacher else []
    return in_order(_distinct([*first, *last, *map(_arm, runs)]))


def plain_arms(models: Sequence[str]) -> list[Arm]:
    """Return the arms for models alone, of which the first is what the others are set beside.

    Raises `RunFolderError` for a local path that holds none.
    """
    return _distinct([_arm(model) for model in models])


def in_order(arms: Sequence[Arm]) -> list[Arm]:
    """Put the source first and the teachers last; the rest keep their order."""
    return sorted(arms, key=lambda arm: _RANK.get(arm.kind, 1))


def model_of(arm: Arm, recipe: Recipe) -> Model:
    """Return how to load an arm: as the recipe loads its student, or that teacher."""
    if arm.kind == "teacher":
        return recipe.all_teachers()[arm.teacher]
    if arm.kind == "source":
        return recipe.student
    return replace(recipe.student, path=arm.path, revision=None)


def check_run(arm: Arm, recipe: Recipe) -> None:
    """Refuse a run that this recipe cannot judge.

    Raises `RequestError` if it started from another student, whose tokenizer and source scores are
    not these, or if prompts held out here were among those it trained on.
    """
    if arm.run is None:
        return
    facts = arm.run.read_facts()
    if facts.student != recipe.student.path:
        raise RequestError(
            f"{arm.run.path} started from {facts.student} and the evaluation from "
            f"{recipe.student.path}: evaluate runs of one student together"
        )
    trained, data = load(arm.run.path).data, recipe.data
    split = (trained.holdout, trained.holdout_seed), (data.holdout, data.holdout_seed)
    if data.test is None and trained.train == data.train and (trained.test or split[0] != split[1]):
        raise RequestError(
            f"{arm.run.path} trained on prompts that this evaluation holds out of {data.train}: "
            "use one data.holdout and data.holdout_seed, or name held-out prompts with data.test"
        )


def training_record(arm: Arm) -> TrainingRecord:
    """Read what an arm's run folder says. Raises `RequestError` where a file is damaged."""
    if arm.run is None:
        return TrainingRecord()
    facts = arm.run.read_facts()
    mask = _mask(arm.run, facts)
    return TrainingRecord(
        density=(facts.mask or facts.adapter or {}).get("density"),
        lr=facts.lr,
        steps=facts.steps,
        seconds=facts.seconds,
        curve=arm.run.read_metrics(),
        layout=layout(mask) if mask is not None else [],
        stability=mask.provenance.stability if mask is not None else [],
    )


def _teacher_arms(recipe: Recipe) -> list[Arm]:
    teachers = recipe.all_teachers()
    return [
        Arm(
            name=f"teacher {name}" if len(teachers) > 1 else "teacher",
            kind="teacher",
            path=teacher.path,
            teacher=name,
        )
        for name, teacher in teachers.items()
        if teacher.server is None
    ]


def _mask(run: RunDir, facts: RunFacts) -> Mask | None:
    """Open the mask of a masked run; `file` is relative to the run's folder."""
    return None if facts.mask is None else Mask.load(run.path / facts.mask["file"])


def _arm(run: RunDir | str | Path) -> Arm:
    if isinstance(run, RunDir) or RunDir.is_run(run):
        return _arm_of_run(run if isinstance(run, RunDir) else RunDir(run))
    path, folder = str(run), Path(run).expanduser()
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise RunFolderError(
            f"{path} is neither a finished run (run.json is missing) nor a model (config.json is)"
        )
    if not folder.exists() and not _may_be_elsewhere(path):
        raise RunFolderError(f"there is no run or model {path}")
    return Arm(name=folder.name or path, kind="model", path=path)


def _arm_of_run(run: RunDir) -> Arm:
    facts = run.read_facts()
    if not run.checkpoint.is_dir():
        raise RunFolderError(
            f"{run.path} is a {facts.kind} run without a checkpoint to evaluate: "
            "train first, for a discovery with --mask and its mask.safetensors"
        )
    return Arm(name=facts.name, kind=facts.kind, path=str(run.checkpoint), run=run)


def _may_be_elsewhere(path: str) -> bool:
    """Whether a path that does not exist here can be a bundled name or a hub id."""
    looks_local = path.startswith((".", "~", os.sep)) or path.count("/") > 1
    return path.startswith(BUNDLED_PREFIX) or not looks_local


def _distinct(arms: Sequence[Arm]) -> list[Arm]:
    found: dict[str, Arm] = {}
    for arm in arms:
        name, number = arm.name, 1
        while name in found:
            number += 1
            name = f"{arm.name}-{number}"
        found[name] = replace(arm, name=name)
    return list(found.values())
