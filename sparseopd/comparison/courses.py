"""How a study goes: each course asks for jobs, is continued when they are done, and ends in an outcome.

A course is a generator. It yields the jobs it waits for and reads their results from disk, so that one
that is started again over finished work runs through to the same outcome.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from sparseopd.artifacts import read_json
from sparseopd.comparison.arms import OPD, Arm, reference
from sparseopd.comparison.jobs import (
    Agreeing,
    Job,
    Looking,
    Measuring,
    Overlapping,
    Pricing,
    Settling,
    Training,
)
from sparseopd.comparison.plan import StudyPlan
from sparseopd.comparison.tuning import Score, best_rate, first_rates, next_rate

Course = Generator[list[Job], None, Any]
SETTLED = 0.1
"""Density of the masks whose settling is followed."""
NOTHING: Score = (float("-inf"), float("-inf"))
"""The score of a rate at which training failed."""


@dataclass(frozen=True)
class ArmOutcome:
    """An arm after its course."""

    arm: Arm
    trials: dict[float, Score]
    """By learning rate."""
    lr: float
    runs: dict[int, Training]
    """Of the best rate, by seed."""
    tests: dict[int, Measuring]
    price: Pricing


@dataclass(frozen=True)
class Explored:
    """The jobs of a study that wait for no tuning."""

    sources: dict[int, Measuring]
    """By seed, as all that follow by one number."""
    teachers: dict[int, Measuring]
    looks: dict[tuple[str, int], Looking]
    """By exploration and seed."""
    overlaps: dict[str, dict[int, Overlapping]]
    """By question and seed."""
    seeds: Overlapping | None
    settling: dict[int, Settling]

    def jobs(self) -> list[Job]:
        """Return all of them, those that tell most of the pair first."""
        return [
            *self.sources.values(),
            *self.teachers.values(),
            *self.looks.values(),
            *(job for by_seed in self.overlaps.values() for job in by_seed.values()),
            *([self.seeds] if self.seeds else []),
            *self.settling.values(),
        ]


@dataclass(frozen=True)
class StudyOutcome:
    """All jobs of a study, done."""

    arms: dict[str, ArmOutcome]
    explored: Explored
    agreements: dict[tuple[str, int], Agreeing]
    """By arm and seed."""


def arm_course(plan: StudyPlan, name: str, arm: Arm, root: Path) -> Course:
    """Tune an arm, run it with every seed at its best rate, and measure it; return `ArmOutcome`."""
    tune = plan.comparison.tune
    seeds = plan.seeds[: tune.seeds]
    scores: dict[float, Score] = {}
    rates = arm.rates or first_rates(plan.start(arm), tune.factor, tune.trials)
    while rates:
        trials = {
            rate: [plan.trial(name, arm, rate, seed) for seed in seeds] for rate in sorted(rates)
        }
        yield [job for jobs in trials.values() for job in jobs]
        scores |= {rate: _score(jobs, root) for rate, jobs in trials.items()}
        left = tune.trials - len(scores) if not arm.rates and len(scores) > 1 else 0
        rates = [next_rate(scores, tune.factor)] if left > 0 else []
    best = best_rate(scores)
    runs = {seed: plan.training(name, arm, best, seed) for seed in plan.seeds}
    tests = {seed: plan.test(run, seed) for seed, run in runs.items()}
    price = Pricing(label=f"{plan.name} {name}", run=runs[plan.seeds[0]])
    yield [*tests.values(), price]
    return ArmOutcome(arm, dict(sorted(scores.items())), best, runs, tests, price)


def exploration_course(plan: StudyPlan) -> Course:
    """Do what waits for no tuning; return `Explored`."""
    explored = explore(plan)
    yield explored.jobs()
    return explored


def ending_course(plan: StudyPlan, explored: Explored, arms: Mapping[str, ArmOutcome]) -> Course:
    """Compare finished arms with the full one; return `StudyOutcome`."""
    name_of_full = reference({name: outcome.arm for name, outcome in arms.items()})
    full = arms[name_of_full] if name_of_full is not None else None
    agreements = {
        (name, seed): Agreeing(label=f"{plan.name} {name} seed {seed}", run=run, reference=full.runs[seed])
        for name, outcome in arms.items()
        for seed, run in outcome.runs.items()
        if full is not None and outcome is not full
    }  # fmt: skip
    yield list(agreements.values())
    return StudyOutcome(dict(arms), explored, agreements)


def read(job: Job, root: Path) -> Any:
    """Return the result of a job that is done and ends in JSON."""
    return read_json(job.path(root))


def explore(plan: StudyPlan) -> Explored:
    """Return what a study looks at besides its arms."""
    study, label = plan.study, plan.name
    looks = {
        (name, seed): Looking(label=f"{label} {name} seed {seed}", run=plan.exploration(name, seed))
        for name in study.geometry
        for seed in plan.seeds
    }
    overlaps = {
        question: {
            seed: Overlapping(
                label=f"{label} {question} seed {seed}",
                runs={
                    name: plan.exploration(name, seed)
                    for name in dict.fromkeys(name for pair in pairs for name in pair)
                },
            )
            for seed in plan.seeds
        }
        for question, pairs in study.overlaps.items()
    }
    seeds = None
    if study.overlaps and len(plan.seeds) > 1:
        runs = {f"seed {seed}": plan.exploration(OPD, seed) for seed in plan.seeds}
        seeds = Overlapping(label=f"{label} seeds", runs=runs)
    settling = {
        seed: Settling(
            label=f"{label} settling seed {seed}",
            student=plan.recipe.student.path,
            masks=plan.settling(seed, SETTLED),
        )
        for seed in (plan.seeds if study.settling else [])
    }
    sources, teachers = plan.given()
    return Explored(sources, teachers, looks, overlaps, seeds, settling)


def _score(trials: list[Measuring], root: Path) -> Score:
    """Return the mean accuracy and minus the mean KL; without a grader, minus the KL alone."""
    found = [read(trial, root) for trial in trials]
    if any("failed" in one for one in found):
        return NOTHING
    kl = -fmean(fmean(one["kl"]) for one in found) if found[0]["kl"] is not None else 0.0
    if found[0]["right"] is None:
        return (0.0, kl)
    return (fmean(fmean(one["right"]) / one["samples"] for one in found), kl)
