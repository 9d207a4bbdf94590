"""From the files of finished jobs to `Results`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from sparseopd.analysis.nulls import KINDS
from sparseopd.artifacts import Interval, RunDir
from sparseopd.comparison.arms import OPD, Arm, reference
from sparseopd.comparison.courses import ArmOutcome, StudyOutcome, read
from sparseopd.comparison.findings import geometry, overlap_rows, settling_rows, telemetry_rows
from sparseopd.comparison.plan import StudyPlan
from sparseopd.comparison.scored import Scored, Statistics, scored, seed_results, verdict
from sparseopd.comparison.settings import Comparison
from sparseopd.comparison.tuning import is_bracketed
from sparseopd.comparison.words import optimizer_words
from sparseopd.errors import SparseOPDError
from sparseopd.evaluation.inference import Finding, holm
from sparseopd.results import ArmResult, Costs, Results, Study, Trial, Verdict
from sparseopd.settings.objective import CONTRASTS
from sparseopd.settings.optimizer import Optimizer
from sparseopd.versions import versions

LIKE = {None: "random", "tensor": "random per tensor", "magnitude": "random by |W|"}
STATE_BYTES = {"adamw": 8, "adam": 8, "adamw-8bit": 2, "paged-adamw-8bit": 2}
"""Of an optimizer's two moments, for each coordinate."""
NOT_NEGATIVE = (0.0, float("inf"))
CURVE = ("step", "loss", "kl", "entropy")


def collect(
    comparison: Comparison,
    plans: list[StudyPlan],
    outcomes: Mapping[str, StudyOutcome],
    root: Path,
    *,
    command: str,
    machine: dict[str, Any],
) -> Results:
    """Return everything a comparison found; the same files give the same results."""
    tune = comparison.tune
    settings = {
        "seeds": comparison.seeds,
        "trials of each arm": tune.trials,
        "factor between rates": tune.factor,
        "validation samples": tune.samples,
        "seeds that tune": tune.seeds,
        "margin": comparison.margin,
        "confidence": comparison.confidence,
        "resamples": comparison.resamples,
        "pass_at": comparison.pass_at,
        **machine,
    }
    studies = [_study(plan, outcomes[plan.name], root) for plan in plans]
    return Results(
        name=comparison.name,
        command=command,
        settings=settings,
        studies=studies,
        versions=versions(),
    )


def _study(plan: StudyPlan, outcome: StudyOutcome, root: Path) -> Study:
    comparison, recipe = plan.comparison, plan.recipe
    statistics = Statistics(comparison.confidence, comparison.resamples, comparison.margin)
    source = {seed: read(job, root) for seed, job in outcome.explored.sources.items()}
    first = next(iter(source.values()))
    if "failed" in first:
        raise SparseOPDError(f"the source of {plan.name} cannot be measured: {first['failed']}")
    prompts = len(first["right"] or first["kl"])
    graded = first["right"] is not None
    score = partial(scored, samples=recipe.evaluate.samples, prompts=prompts, graded=graded)
    measured = {
        name: score({seed: read(job, root) for seed, job in arm.tests.items()})
        for name, arm in outcome.arms.items()
    }
    before = score(source)
    arms = [_given("source", before, statistics, comparison)]
    arms += [_arm(name, plan, outcome, measured, before, statistics, root) for name in outcome.arms]
    arms = _judged(arms, outcome, measured, statistics)
    if outcome.explored.teachers:
        told = {seed: read(job, root) for seed, job in outcome.explored.teachers.items()}
        arms.append(_given("teacher", score(told), statistics, comparison))
    teachers = {name: teacher.path for name, teacher in recipe.all_teachers().items()}
    return Study(
        name=plan.name,
        title=plan.study.title,
        setting=plan.study.setting,
        student=recipe.student.path,
        teacher=", ".join(teachers.values()),
        settings=_settings(plan, prompts),
        arms=arms,
        geometry=geometry(plan, outcome, root),
        overlaps=overlap_rows(plan, outcome, root),
        settling=settling_rows(outcome, root),
        telemetry=telemetry_rows(outcome, root),
        notes=[*plan.left_out, *_notes(measured)],
    )


def _given(kind: str, arm: Scored, statistics: Statistics, comparison: Comparison) -> ArmResult:
    """Source or teacher."""
    return ArmResult(
        name=kind,
        kind=kind,
        seeds=seed_results(arm, comparison.pass_at, {}, {}),
        accuracy=statistics.share(arm.accuracy),
        pass_at=_pass_at(arm, statistics, comparison),
        kl=statistics.interval(arm.kl, NOT_NEGATIVE),
    )


def _arm(
    name: str,
    plan: StudyPlan,
    outcome: StudyOutcome,
    measured: Mapping[str, Scored],
    source: Scored,
    statistics: Statistics,
    root: Path,
) -> ArmResult:
    told, arm, own = outcome.arms[name], outcome.arms[name].arm, measured[name]
    run = told.runs[plan.seeds[0]]
    full = _first_full(outcome)
    price = read(told.price, root)
    facts = {seed: RunDir(job.path(root)) for seed, job in told.runs.items()}
    seconds = {
        seed: folder.read_facts().seconds if folder.facts.exists() else None
        for seed, folder in facts.items()
    }
    agreements = {
        seed: read(job, root) for (arm_, seed), job in outcome.agreements.items() if arm_ == name
    }
    kind = run.recipe.objective.kind
    gains = None
    if own.accuracy is not None and source.accuracy is not None:
        gains = own.accuracy - source.accuracy
    steps = run.mask.steps if run.mask is not None else None
    return ArmResult(
        name=name,
        kind="contrast" if arm.kind == "full" and kind in CONTRASTS else arm.kind,
        chosen=_chosen(told),
        found_on=_found_on(arm),
        method=kind,
        optimizer=optimizer_words(run.recipe.optimizer),
        density=price["trainable"] / price["total"]
        if arm.kind != "full" and price["trainable"]
        else None,
        k=price["trainable"],
        discovery_steps=steps,
        steps=run.recipe.train.steps,
        reordered=arm.reordered,
        lr=told.lr,
        trials=_trials(told, compared=source.kl is not None),
        bracketed=is_bracketed(list(told.trials), told.lr),
        seeds=seed_results(own, plan.comparison.pass_at, agreements, seconds),
        accuracy=statistics.share(own.accuracy),
        pass_at=_pass_at(own, statistics, plan.comparison),
        gain=statistics.interval(gains),
        kept=statistics.kept(own, measured[full] if full else None, source),
        kl=statistics.interval(own.kl, NOT_NEGATIVE),
        forgetting=_spread(own.forgetting),
        costs=_costs(price, arm.kind, run.recipe.optimizer, [s for s in seconds.values() if s]),
        curve=[
            {key: row[key] for key in CURVE if key in row}
            for row in facts[plan.seeds[0]].read_metrics()
        ],
    )


def _judged(
    arms: list[ArmResult],
    outcome: StudyOutcome,
    measured: Mapping[str, Scored],
    statistics: Statistics,
) -> list[ArmResult]:
    """Put every arm to the test against full, and every mask against random; correct each family."""
    full = _first_full(outcome)
    equivalence: dict[str, Finding] = {}
    superiority: dict[str, Finding] = {}
    against: dict[str, str] = {}
    for arm in arms:
        if arm.kind == "source":
            continue
        if full and arm.name != full:
            test = statistics.equivalence(measured[arm.name], measured[full])
            equivalence |= {arm.name: test} if test else {}
        own = outcome.arms[arm.name].arm.settings
        alike = [other for other in arms if other.kind == "masked"]
        alike = [other for other in alike if outcome.arms[other.name].arm.settings == own]
        random = _random_like(arm, alike)
        if random:
            test = statistics.superiority(measured[arm.name], measured[random])
            superiority |= {arm.name: test} if test else {}
            against[arm.name] = random
    equal = dict(zip(equivalence, holm(list(equivalence.values())), strict=True))
    better = dict(zip(superiority, holm(list(superiority.values())), strict=True))
    return [
        replace(
            arm,
            equivalence=_verdict(equal.get(arm.name), full or ""),
            superiority=_verdict(better.get(arm.name), against.get(arm.name, "")),
        )
        for arm in arms
    ]


def _random_like(arm: ArmResult, arms: list[ArmResult]) -> str | None:
    """Name the random mask that an arm is to beat: of its size, drawn per tensor if there is one."""
    if arm.kind not in ("masked", "lora", "shira") or arm.chosen.startswith("random"):
        return None
    for chosen in (LIKE["tensor"], LIKE[None], LIKE["magnitude"]):
        for other in arms:
            if other.chosen == chosen and _same_size(arm, other):
                return other.name
    return None


def _same_size(arm: ArmResult, other: ArmResult) -> bool:
    """Whether two arms train as many coordinates, up to what layers' shapes allow adapters."""
    return bool(arm.k and other.k and abs(arm.k - other.k) <= 0.1 * other.k)


def _verdict(test: Finding | None, against: str) -> Verdict | None:
    return None if test is None else verdict(test, against)


def _first_full(outcome: StudyOutcome) -> str | None:
    return reference({name: told.arm for name, told in outcome.arms.items()})


def _chosen(told: ArmOutcome) -> str:
    mask = told.arm.mask
    if mask is None:
        return ""
    if mask.selector == "random":
        return LIKE[mask.like]
    return "discovered" if mask.selector == "topk" else mask.selector


def _found_on(arm: Arm) -> str:
    """Say where a mask of elsewhere comes from; nothing of a mask of the pair's own exploration."""
    if arm.mask is None or arm.mask.selector != "topk":
        return arm.found_on
    return arm.found_on or (
        "another seed" if arm.mask.seed else "" if arm.mask.of == OPD else arm.mask.of
    )


def _trials(told: ArmOutcome, *, compared: bool) -> list[Trial]:
    return [
        Trial(
            lr=lr,
            accuracy=None if score[0] == float("-inf") else score[0],
            kl=-score[1] if compared and score[1] != float("-inf") else None,
        )
        for lr, score in told.trials.items()
    ]


def _pass_at(arm: Scored, statistics: Statistics, comparison: Comparison) -> dict[str, Interval]:
    found = {str(k): statistics.share(arm.pass_at(k)) for k in comparison.pass_at}
    return {k: interval for k, interval in found.items() if interval is not None}


def _spread(values: list[float | None]) -> Interval | None:
    """Return the mean over seeds with the lowest and the highest."""
    known = [value for value in values if value is not None]
    return Interval(float(np.mean(known)), min(known), max(known)) if known else None


def _costs(price: dict[str, Any], kind: str, optimizer: Optimizer, seconds: list[float]) -> Costs:
    moments = STATE_BYTES.get(optimizer.name, 4 if optimizer.momentum else 0)
    # A masked run holds its values in float32 beside the weights, and an index of 4 bytes.
    beside = 8 if kind == "masked" else 0
    return Costs(
        seconds=median(seconds) if seconds else None,
        trainable=price["trainable"],
        state_bytes=(price["trainable"] or 0) * (moments + beside) or None,
        peak_bytes=price["peak_bytes"],
        shipped_bytes=price["shipped_bytes"],
    )


def _settings(plan: StudyPlan, prompts: int) -> dict[str, Any]:
    recipe = plan.recipe
    return {
        "recipe": plan.study.recipe,
        "overrides": plan.study.settings,
        "data": recipe.data.train,
        "test": recipe.data.test or recipe.data.train,
        "test prompts": prompts,
        "samples": recipe.evaluate.samples,
        "validation prompts": plan.validation,
        "training prompts": plan.train_rows - plan.validation,
        "objective": recipe.objective.kind,
        "steps": recipe.train.steps,
        "batch": recipe.train.batch_size,
        "discovery steps": recipe.discover.steps,
        "discovery lr": recipe.optimizer.lr,
        "optimizer": optimizer_words(recipe.optimizer),
        "weight decay": recipe.optimizer.weight_decay,
        "temperature": recipe.rollout.temperature,
        "max_new_tokens": recipe.rollout.max_new_tokens,
        "dtype": recipe.student.dtype,
        "device": recipe.device or "default",
        "coordinates": plan.numel,
        "other task": plan.study.other_task,
        "nulls": ", ".join(KINDS),
    }


def _notes(measured: Mapping[str, Scored]) -> list[str]:
    """Say which runs failed."""
    return [
        f"{name} failed with seed {seed}, and counts as nothing right: {told['failed']}"
        for name, arm in measured.items()
        for seed, told in zip(arm.seeds, arm.found, strict=True)
        if "failed" in told
    ]
