"""`compare`: plan, train and measure every arm with every seed, and gather what was found.

    OUT/comparison.yaml     the resolved comparison
    OUT/runs, masks, measures, analyses, overlaps, agreements, costs    a file or folder for each job
    OUT/pace.json           what was timed to plan it; times.json, what each job took
    OUT/comparison.json     Results; report.html and csv/ beside it

Whatever is finished is never done again: start it once more after a crash, or with more arms or seeds.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sparseopd.artifacts import Progress, written_whole
from sparseopd.comparison.arms import Arm, default_arms
from sparseopd.comparison.collect import collect
from sparseopd.comparison.courses import (
    Course,
    arm_course,
    ending_course,
    exploration_course,
    explore,
)
from sparseopd.comparison.foreman import Foreman
from sparseopd.comparison.jobs import Job, Pricing
from sparseopd.comparison.pace import (
    Pace,
    read_paces,
    read_times,
    timed,
    write_paces,
    write_times,
)
from sparseopd.comparison.plan import StudyPlan
from sparseopd.comparison.settings import Comparison
from sparseopd.comparison.tuning import first_rates
from sparseopd.comparison.workers import only_one, pool, sweep
from sparseopd.errors import RecipeError
from sparseopd.results import Results

RESULTS = "comparison.json"
RESOLVED = "comparison.yaml"


@dataclass(frozen=True)
class Expected:
    """What a study will take."""

    name: str
    arms: int
    trainings: int
    measurements: int
    done: int
    """Jobs whose results are there."""
    jobs: int
    seconds: float
    """Of one worker, for what is left."""


def plans(comparison: Comparison) -> list[StudyPlan]:
    """Return the plan of every study.

    Arms that nobody asked for by name, and that the student is too small for, are left out. Raises
    `RequestError` where data or models are out of reach, or such an arm was asked for.
    """
    from sparseopd.comparison.adapters import impossible
    from sparseopd.comparison.measuring import count_train
    from sparseopd.pairs import open_tensors
    from sparseopd.pairs.locate import weights_folder

    found = []
    for name, study in comparison.studies.items():
        recipe = comparison.recipes()[name]
        folder = weights_folder(recipe.student.path, recipe.student.revision)
        student = open_tensors(str(folder))
        numel = sum(student.shape(tensor).numel() for tensor in student.keys())
        without = impossible(folder, study.arms, numel)
        for arm, why in without.items():
            if study.arms != default_arms(recipe):
                raise RecipeError(f"{name}: the arm {arm!r} cannot be trained: {why}")
        arms = {arm: one for arm, one in study.arms.items() if arm not in without}
        found.append(
            StudyPlan(
                name=name,
                study=replace(study, arms=arms),
                comparison=comparison,
                train_rows=count_train(recipe),
                numel=numel,
                left_out=[f"{arm} was left out: {why}" for arm, why in without.items()],
            )
        )
    return found


def workers_of(comparison: Comparison) -> tuple[int, int, int]:
    """Return how many workers there are, the threads of each, and the GPUs they share."""
    import torch

    device = next(iter(comparison.recipes().values())).device
    gpus = torch.cuda.device_count() if device in (None, "cuda") else 0
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    workers = comparison.workers or gpus or cores
    return workers, comparison.threads or max(1, cores // workers), gpus


def expected(plan: StudyPlan, pace: Pace, root: Path) -> Expected:
    """Count the jobs of a study, as far as they are known before any rate is chosen."""
    jobs = _known_jobs(plan, root)
    left = [job for job in jobs.values() if not job.is_done(root)]
    kinds = [type(job).__name__ for job in jobs.values()]
    return Expected(
        name=plan.name,
        arms=len(plan.study.arms),
        trainings=kinds.count("Training"),
        measurements=kinds.count("Measuring"),
        done=len(jobs) - len(left),
        jobs=len(jobs),
        seconds=sum(pace.of(job) for job in left),
    )


def measure_pace(found: list[StudyPlan], comparison: Comparison, root: Path) -> dict[str, Pace]:
    """Time a little work of each study in the workers that will do the rest, unless an earlier start did."""
    known = read_paces(root)
    if all(plan.name in known for plan in found):
        return known
    workers, threads, gpus = workers_of(comparison)
    with pool(workers, threads, gpus) as executor:
        asked = {plan.name: executor.submit(timed, plan.recipe, plan.validation) for plan in found}
        return {name: future.result() for name, future in asked.items()}


def compare(
    comparison: Comparison,
    found: list[StudyPlan],
    root: Path,
    paces: Mapping[str, Pace],
    *,
    command: str,
    progress: Progress | None = None,
) -> Results:
    """Do what is left of a comparison in a folder, and write its results."""
    root.mkdir(parents=True, exist_ok=True)
    with only_one(root):
        sweep(root)
        with written_whole(root / RESOLVED) as temporary:
            temporary.write_text(comparison.to_yaml(), encoding="utf-8")
        write_paces(root, paces)
        workers, threads, gpus = workers_of(comparison)
        tally = _Tally(root, found, paces, progress)
        with pool(workers, threads, gpus) as executor:
            foreman = Foreman(executor, root, tally.done, tally.started)
            ended = foreman.carry_out(_courses(found, root))
            by_study = {
                plan.name: {name: ended[f"{plan.name}: {name}"] for name in plan.study.arms}
                for plan in found
            }
            endings = {
                plan.name: ending_course(plan, ended[plan.name], by_study[plan.name])
                for plan in found
            }
            outcomes = foreman.carry_out(endings)
        tally.end()
        machine = {"workers": workers, "threads of each": threads, "GPUs": gpus}
        results = collect(comparison, found, outcomes, root, command=command, machine=machine)
        results.save(root / RESULTS)
    return results


def _courses(found: list[StudyPlan], root: Path) -> dict[str, Course]:
    courses: dict[str, Course] = {}
    for plan in found:
        courses[plan.name] = exploration_course(plan)
        for name, arm in plan.study.arms.items():
            courses[f"{plan.name}: {name}"] = arm_course(plan, name, arm, root)
    return courses


def _known_jobs(plan: StudyPlan, root: Path) -> dict[str, Job]:
    """Return the jobs of a study by name; rates that tuning has yet to choose are stood in for."""
    found: dict[str, Job] = {}

    def add(job: Job) -> None:
        if job.key not in found:
            for need in job.needs():
                add(need)
            found[job.key] = job

    for job in explore(plan).jobs():
        add(job)
    for name, arm in plan.study.arms.items():
        asked, ends = _asked(arm_course(plan, name, arm, root), root)
        for job in asked if ends else [*asked, *_stand_ins(plan, name, arm)]:
            add(job)
    return found


def _asked(course: Course, root: Path) -> tuple[list[Job], bool]:
    """Return the jobs of a course as far as they are done, and whether they are all."""
    asked: list[Job] = []
    for jobs in course:
        asked += jobs
        if not all(job.is_done(root) for job in jobs):
            return asked, False
    return asked, True


def _stand_ins(plan: StudyPlan, name: str, arm: Arm) -> list[Job]:
    tune = plan.comparison.tune
    rates = list(arm.rates) or first_rates(plan.start(arm), tune.factor, tune.trials)
    while not arm.rates and len(rates) < tune.trials:
        rates.append(max(rates) * tune.factor)
    trials = [
        plan.trial(name, arm, rate, seed) for rate in rates for seed in plan.seeds[: tune.seeds]
    ]
    runs = [plan.training(name, arm, rates[0], seed) for seed in plan.seeds]
    tests = [plan.test(run, seed) for run, seed in zip(runs, plan.seeds, strict=True)]
    return [*trials, *tests, Pricing(label=name, run=runs[0])]


class _Tally:
    """Keeps the times of jobs, and says how far the whole is: in seconds of expected work."""

    def __init__(
        self,
        root: Path,
        found: list[StudyPlan],
        paces: Mapping[str, Pace],
        progress: Progress | None,
    ) -> None:
        self._root, self._progress = root, progress
        self._times = read_times(root)
        self._paces = {plan.name: paces[plan.name] for plan in found}
        self._left = {plan.name: expected(plan, paces[plan.name], root).seconds for plan in found}
        self._total = max(1.0, sum(self._left.values()))
        self._done = 0.0
        self._running: list[str] = []

    def started(self, job: Job) -> None:
        """Show what is under way."""
        self._running.append(job.label)
        self._show()

    def done(self, job: Job, seconds: float) -> None:
        """Count a job that was done."""
        self._running.remove(job.label)
        self._times[job.key] = seconds
        self._done += self._pace(job).of(job)
        write_times(self._root, self._times)
        self._show()

    def end(self) -> None:
        """Close the line."""
        if self._progress is not None:
            self._progress("compare", round(self._total), round(self._total))

    def _show(self) -> None:
        if self._progress is not None:
            total = round(self._total)
            done = min(total - 1, round(self._done))
            self._progress("compare", done, total, "", ", ".join(self._running[:2]))

    def _pace(self, job: Job) -> Pace:
        names = [name for name in self._paces if job.label.startswith(name)]
        return self._paces[max(names, key=len) if names else next(iter(self._paces))]
