"""`discover`: a short full OPD run whose update becomes a mask.

    sparseopd discover RECIPE [--until-stable 0.95] [--snapshots 5,10,25] -o RUN
    sparseopd discover RUN --resume

The student trains in full for `discover.steps` updates, or until its mask has settled; Δ is taken
between its fp32 masters and the source's checkpoint; the selector keeps k coordinates. The trained
weights themselves are dropped: `train` starts from the source again.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from sparseopd import recipe as recipes
from sparseopd.artifacts import Progress, Provenance, RunDir, write_json
from sparseopd.distill import processes
from sparseopd.distill.facts import record, write_recipe
from sparseopd.distill.optimizer import check_groups
from sparseopd.distill.prepare import Prepared, prepare, require_masters
from sparseopd.distill.resume import find_stopped, forget, mark_started, reopen
from sparseopd.distill.saliency import SaliencyRecorder
from sparseopd.distill.train import last_row, new_run, run_training
from sparseopd.distill.watch import MaskWatch
from sparseopd.errors import MaskError, RecipeError, RunFolderError
from sparseopd.masks import Mask, select, summarize_update
from sparseopd.masks.scope import in_scope
from sparseopd.masks.selectors import MATRICES
from sparseopd.pairs import load_model, local_folder
from sparseopd.pairs.tensors import Source, Tensors, source_tensors
from sparseopd.recipe import Discover, Recipe
from sparseopd.selection import DATA_FREE, resolved, total
from sparseopd.singular import is_matrix


def discover(recipe: Recipe, output: str | Path, *, progress: Progress | None = None) -> RunDir:
    """Find the mask of a recipe and write its run folder.

    Data-free selectors need no update, so nothing is trained for them.

    Raises `RequestError` before anything is written if recipe, models, data or folder do not fit.
    """
    run = new_run(output)
    if recipe.discover.selector in DATA_FREE:
        return _without_training(recipe, run, progress)
    started = time.monotonic()
    require_masters(recipe, "discover")
    prepared = prepare(recipe)
    source = source_tensors(local_folder(recipe.student), prepared.student)
    _check_selection(recipe.discover, source)
    check_groups(recipe.optimizer, prepared.student)
    if processes.is_main():
        run.create()
        write_recipe(run, recipe)
        mark_started(run, "discover")
    return _find(_Discovery(recipe, prepared, source, run, progress), started)


def resume(folder: str | Path, *, progress: Progress | None = None) -> RunDir:
    """Go on with a discovery that stopped, from the last state it kept (`train.save_every`).

    It ends in the same mask as if it had never stopped. Raises `RunFolderError` if there is nothing to
    go on from, otherwise as `discover`.
    """
    started = time.monotonic()
    run = RunDir(folder)
    _check_trains(run)
    stopped = find_stopped(run, "discover")
    recipe, prepared = reopen(run, stopped)
    source = source_tensors(local_folder(recipe.student), prepared.student)
    if processes.is_main():
        for step in recipe.discover.snapshots:
            if step > stopped.step:
                run.snapshot(step).unlink(missing_ok=True)
    return _find(_Discovery(recipe, prepared, source, run, progress), started, stopped.checkpoint)


def _check_trains(run: RunDir) -> None:
    """Refuse a run that was cut off while its data-free selector worked."""
    if run.facts.exists() or not run.recipe.exists():
        return
    selector = recipes.load(run.recipe).discover.selector
    if selector in DATA_FREE and not run.started.exists():
        raise RunFolderError(
            f"{run.path} chooses by {selector}, which trains nothing, so there is nothing to resume: "
            "start it again in another folder"
        )


def _find(finding: _Discovery, started: float, checkpoint: Path | None = None) -> RunDir:
    finding.train(checkpoint)
    if processes.is_main():
        finding.write(started)
    processes.wait()
    return finding.run


class _Discovery:
    """One discovery run: trains, keeps snapshots, chooses, and writes."""

    def __init__(
        self,
        recipe: Recipe,
        prepared: Prepared,
        source: Tensors,
        run: RunDir,
        progress: Progress | None,
    ) -> None:
        self.run = run
        self._recipe, self._prepared, self._source = recipe, prepared, source
        self._progress = progress
        wanted = recipe.discover.selector == "saliency"
        kind = recipe.discover.saliency or "gradient"
        self._saliency = SaliencyRecorder(kind) if wanted else None
        self._watch = MaskWatch(recipe.discover, source, run, self._snapshot)
        self._steps = 0
        self._last: dict[str, Any] = {}

    def train(self, checkpoint: Path | None = None) -> None:
        """Train, from a state on if one is given; `write` then finds the mask."""
        log = run_training(
            self._recipe, self._prepared, self.run, steps=self._recipe.discover.steps, mask=None,
            stage="discover", progress=self._progress, checkpoint=checkpoint,
            callbacks=[*([self._saliency] if self._saliency else []), self._watch],
        )  # fmt: skip
        self._steps, self._last = log.step, last_row(log, self.run)
        if self._progress is not None and self._steps < self._recipe.discover.steps:
            self._progress("discover", self._steps, self._steps)  # ends the bar of an early stop
        self._prepared.student.cpu()  # pyright: ignore[reportCallIssue]

    def write(self, started: float) -> None:
        """Choose the mask of the whole run, sum up the update, and end the run."""
        recipe, prepared = self._recipe, self._prepared
        mask = self._choose(self._steps, self.run.mask)
        write_json(self.run.delta, summarize_update(self._source, prepared.student, mask))
        seconds = time.monotonic() - started
        record(
            self.run, recipe, kind="discover", name=recipe.name, steps=self._steps,
            lr=recipe.optimizer.lr, seconds=seconds, mask=mask, final=self._last,
            notes=[*prepared.notes, *self._notes()],
        )  # fmt: skip
        forget(self.run)

    def _notes(self) -> list[str]:
        """Say whether the mask settled, if that was asked, and which snapshots an early end lacks."""
        if self._steps == self._recipe.discover.steps:
            return [*self._watch.missed, *self._watch.unsettled()]
        settled = f"the mask settled, and discovery stopped, after {self._steps} steps"
        missed = [step for step in self._recipe.discover.snapshots if step > self._steps]
        return [
            *self._watch.missed,
            settled + (f"; no snapshot was kept of steps {missed}" if missed else ""),
        ]

    def _snapshot(self, step: int) -> str | None:
        if not processes.is_main():
            return None
        path = self.run.snapshot(step)
        path.parent.mkdir(exist_ok=True)
        try:
            self._choose(step, path)
        except MaskError as error:  # so early that nothing has moved enough: no reason to stop
            return f"no snapshot of step {step}: {error}"
        return None

    def _choose(self, step: int, path: Path) -> Mask:
        tuned: Source = self._prepared.student
        if self._saliency is not None:
            tuned = self._saliency.save(self._prepared.student, self.run.saliency)
        return _select(self._recipe, self._source, tuned, step, path, self._watch.rows)


def _without_training(recipe: Recipe, run: RunDir, progress: Progress | None) -> RunDir:
    """Write the run of a mask that looks at the source alone."""
    if not processes.is_main():
        processes.wait()
        return run
    started = time.monotonic()
    source = source_tensors_of(recipe)
    _check_selection(recipe.discover, source)
    run.create()
    write_recipe(run, recipe)
    mask = _select(recipe, source, None, 0, run.mask, [], progress)
    seconds = time.monotonic() - started
    record(run, recipe, kind="discover", name=recipe.name, seconds=seconds, mask=mask)
    processes.wait()
    return run


def source_tensors_of(recipe: Recipe) -> Tensors:
    """Open the source's checkpoint, with the parameters its model class has."""
    student: PreTrainedModel = load_model(recipe.student)
    return source_tensors(local_folder(recipe.student), student)


def _check_selection(settings: Discover, source: Tensors) -> None:
    """Refuse a scope or density that leaves nothing, before steps are spent on it."""
    try:
        names = in_scope(source.keys(), settings.include, settings.exclude)
        if settings.selector in MATRICES:
            names = [name for name in names if is_matrix(source.shape(name))]
        if settings.ranks:
            total(resolved(settings), sum(source.shape(name).numel() for name in names))
    except MaskError as error:
        raise RecipeError(f"discover: {error}") from error


def _select(
    recipe: Recipe,
    source: Tensors,
    tuned: Source | None,
    steps: int,
    path: Path,
    stability: list[dict[str, float]],
    progress: Progress | None = None,
) -> Mask:
    scores = recipe.discover.selector == "saliency"
    known = Provenance(
        base=recipe.student.path,
        tuned=f"saliency: {recipe.discover.saliency or 'gradient'}" if scores else "",
        steps=steps,
        stability=stability,
        recipe_hash=recipe.digest(),
    )
    return select(
        source,
        tuned,
        selection=recipe.discover,
        seed=recipe.seed,
        output=path,
        provenance=known,
        progress=progress,
    )
