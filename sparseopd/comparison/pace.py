"""How long a comparison will take, from a few timed steps of every study.

OUT/times.json    seconds of every job that was done here, by its name
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sparseopd.artifacts import RunDir, read_json, write_json
from sparseopd.comparison.jobs import Job, Measuring, Training
from sparseopd.recipe import Recipe

TIMES = "times.json"
PACES = "pace.json"
TIMED_STEPS = 6
TIMED_PROMPTS = 32
OTHERS = 4.0
"""Seconds of a job that neither trains nor samples, until one has been timed."""


@dataclass(frozen=True)
class Pace:
    """What a study's work takes, in seconds."""

    start: float
    """Of a training run, besides its steps."""
    step: float
    prompt: float
    """Of a test prompt with all its samples."""

    def of(self, job: Job) -> float:
        """Return the seconds a job is expected to take."""
        if isinstance(job, Training):
            rollouts = job.recipe.rollout.samples if job.recipe.objective.kind == "grpo" else 1
            return self.start + job.recipe.train.steps * self.step * max(1, rollouts / 2)
        if isinstance(job, Measuring):
            evaluate = job.recipe.evaluate
            count = evaluate.prompts if job.split == "test" else job.validation
            return 1 + count * self.prompt
        return OTHERS


def timed(recipe: Recipe, validation: int) -> Pace:
    """Time a few steps of full training, and a few prompts of an evaluation, in a temporary folder."""
    from sparseopd.comparison.measuring import measured
    from sparseopd.distill import train

    train_settings = replace(recipe.train, steps=TIMED_STEPS, snapshots=[], log_every=1)
    short = replace(recipe, train=train_settings)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        run = Training(label="timed", recipe=short)
        run.path(root).parent.mkdir(parents=True)
        done = RunDir(run.path(root))
        train(short, done.path)
        seconds = [row["seconds"] for row in done.read_metrics()]
        step = (seconds[-1] - seconds[1]) / (len(seconds) - 2)
        start = max(0.0, done.read_facts().seconds - len(seconds) * step)
        evaluate = replace(recipe.evaluate, prompts=TIMED_PROMPTS)
        test = Measuring(
            label="timed",
            recipe=replace(recipe, evaluate=evaluate),
            split="test",
            validation=validation,
            run=run,
        )
        measured(test, root)  # the first loads prompts and teacher
        started = time.monotonic()
        found = measured(test, root)
        elapsed = time.monotonic() - started
        kl = found["kl"] or found["right"] or [0]
    return Pace(start=start, step=step, prompt=elapsed / len(kl))


def read_paces(root: Path) -> dict[str, Pace]:
    """Return what an earlier start timed; nothing in a new folder."""
    file = root / PACES
    return {name: Pace(**one) for name, one in read_json(file).items()} if file.is_file() else {}


def write_paces(root: Path, paces: Mapping[str, Pace]) -> None:
    """Keep what was timed."""
    write_json(root / PACES, {name: asdict(pace) for name, pace in paces.items()})


def read_times(root: Path) -> dict[str, float]:
    """Return the seconds of what was done, by job; nothing in a new folder."""
    file = root / TIMES
    return read_json(file) if file.is_file() else {}


def write_times(root: Path, times: Mapping[str, float]) -> None:
    """Keep the seconds of what was done."""
    write_json(root / TIMES, {name: round(seconds, 2) for name, seconds in sorted(times.items())})
