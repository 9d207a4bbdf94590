"""`train`: OPD from the source weights, in full, only at a mask's coordinates, or of an adapter.

    sparseopd train RECIPE [--mask RUN/mask.safetensors] [--snapshots 5,10,25] -o RUN2
    sparseopd train RUN2 --resume

A masked run starts from the source again (weights, optimizer, schedule), trains k-vectors only, and
ends by comparing the written checkpoint with the source: every coordinate off the mask must have its
bits, or the run fails. With `train.peft` an adapter of PEFT's is trained in the weights' place, as a
control arm.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from sparseopd.artifacts import Progress, RunDir
from sparseopd.distill import processes
from sparseopd.distill.checkpoint import (
    changed_off_mask,
    checkpoint_bytes,
    require_lossless,
    save_checkpoint,
)
from sparseopd.distill.facts import record, write_recipe
from sparseopd.distill.interrupt import Interrupts
from sparseopd.distill.log import RunLog
from sparseopd.distill.optimizer import (
    build_optimizer,
    check_groups,
    check_sampling,
    learning_rate,
)
from sparseopd.distill.peft_arm import AdapterKeeper, Attached, attach, check_adapter, finish
from sparseopd.distill.prepare import Prepared, prepare, require_masters
from sparseopd.distill.resume import (
    NothingLeft,
    ResumableCallback,
    Stage,
    StateKeeper,
    find_stopped,
    forget,
    mark_started,
    reopen,
    resume_command,
)
from sparseopd.distill.snapshots import Snapshots
from sparseopd.distill.trainer import make_trainer
from sparseopd.errors import Interrupted, MaskError, MaskLeakError, RecipeError
from sparseopd.masks import Mask
from sparseopd.optim.build import checkpoint_names, own_names
from sparseopd.pairs import load_model, local_folder
from sparseopd.recipe import Recipe
from sparseopd.settings.objective import CONTRASTS


def train(
    recipe: Recipe,
    output: str | Path,
    *,
    mask: Mask | None = None,
    name: str | None = None,
    progress: Progress | None = None,
) -> RunDir:
    """Train the student of a recipe and write its run folder.

    Raises `RequestError` before anything is written if recipe, models, data, mask or folder do not
    fit; `TrainingError` on a non-finite loss or gradient, or if a bit off the mask has changed.
    """
    run = new_run(output)
    started = time.monotonic()
    if recipe.train.peft is not None:
        check_adapter(recipe, masked=mask is not None)
    elif mask is None:
        require_masters(recipe, "a full run")
    prepared = prepare(recipe)
    adapter = _attach(recipe, prepared)
    check_groups(recipe.optimizer, prepared.student)
    if mask is not None:
        _check_mask(recipe, prepared, mask)
    if processes.is_main():
        copies = 1 + len(set(recipe.train.snapshots))
        run.create(copies * checkpoint_bytes(prepared.student, prepared.stored_dtype))
        write_recipe(run, recipe)
        if mask is not None:
            mask.save(run.mask)
        mark_started(run, "train", name)
    return _train_and_record(
        _Training(recipe, prepared, run, mask, adapter, name, started), progress
    )


def resume(folder: str | Path, *, progress: Progress | None = None) -> RunDir:
    """Go on with a training run that stopped, from the last state it kept (`train.save_every`).

    It ends in the same bits as if it had never stopped. Raises `RunFolderError` if there is nothing to
    go on from, otherwise as `train`.
    """
    started = time.monotonic()
    run = RunDir(folder)
    stopped = find_stopped(run, "train")
    recipe, prepared = reopen(run, stopped)
    mask = Mask.load(run.mask) if run.mask.exists() else None
    adapter = _attach(recipe, prepared)
    return _train_and_record(
        _Training(recipe, prepared, run, mask, adapter, stopped.name, started),
        progress,
        stopped.checkpoint,
    )


def new_run(output: str | Path) -> RunDir:
    """Name the folder of a new run; one process looks whether it is empty, as it soon will not be."""
    return RunDir.unused(output) if processes.is_main() else RunDir(output)


@dataclass(frozen=True)
class _Training:
    """One run: what is trained, and what it is called."""

    recipe: Recipe
    prepared: Prepared
    run: RunDir
    mask: Mask | None
    adapter: Attached | None
    name: str | None
    started: float
    """When, on the monotonic clock."""

    @property
    def kind(self) -> str:
        """Return what `RunFacts` calls it."""
        if self.adapter is not None:
            return self.adapter.facts["type"]
        if self.mask is not None:
            return "masked"
        return "contrast" if self.recipe.objective.kind in CONTRASTS else "full"

    @property
    def default_name(self) -> str:
        """Return what tables call it if it was given no name."""
        if self.adapter is not None:
            return self.adapter.label
        if self.mask is not None:
            return _mask_name(self.mask)
        kind = self.recipe.objective.kind
        return kind if kind in CONTRASTS else "full"


def _attach(recipe: Recipe, prepared: Prepared) -> Attached | None:
    """Put the adapter into the student, if the recipe has one, and note its size."""
    peft = recipe.train.peft
    if peft is None:
        return None
    adapter = attach(recipe, prepared.student)
    prepared.notes.append(adapter.note(peft.k))
    return adapter


def _train_and_record(
    training: _Training, progress: Progress | None, checkpoint: Path | None = None
) -> RunDir:
    recipe, prepared, run = training.recipe, training.prepared, training.run
    keepers = [] if training.adapter is None else [AdapterKeeper(training.adapter)]
    log = run_training(
        recipe, prepared, run, steps=recipe.train.steps, mask=training.mask, stage="train",
        progress=progress, checkpoint=checkpoint,
        callbacks=[Snapshots(recipe.train.snapshots, prepared, run), *keepers],
    )  # fmt: skip
    if processes.is_main():
        _write(training, log)
    processes.wait()
    return run


def _write(training: _Training, log: RunLog) -> None:
    """Write the trained checkpoint, check it off the mask, and end the run."""
    recipe, prepared, run = training.recipe, training.prepared, training.run
    mask, adapter = training.mask, training.adapter
    if adapter is not None:
        finish(adapter, run.adapter)
    save_checkpoint(prepared.student, prepared.processor, run.checkpoint, prepared.stored_dtype)
    if mask is not None:
        _check_off_mask(recipe, prepared, run, mask)
    record(
        run,
        recipe,
        kind=training.kind,
        name=training.name or training.default_name,
        steps=recipe.train.steps,
        lr=learning_rate(recipe.optimizer, masked=mask is not None),
        seconds=time.monotonic() - training.started,
        mask=mask,
        adapter=None if adapter is None else adapter.facts,
        final=last_row(log, run),
        notes=prepared.notes,
    )
    forget(run)


def run_training(
    recipe: Recipe,
    prepared: Prepared,
    run: RunDir,
    *,
    steps: int,
    mask: Mask | None,
    stage: Stage,
    progress: Progress | None,
    callbacks: Sequence[TrainerCallback] = (),
    checkpoint: Path | None = None,
) -> RunLog:
    """Train `prepared.student` in place for `steps` updates; return the log with its last line.

    `checkpoint` is the state to go on from, which may be that of the last step. Raises `Interrupted`
    after a signal, with a state saved.
    """
    log = RunLog(run, stage, progress)

    def build(model: nn.Module) -> torch.optim.Optimizer:
        optimizer = build_optimizer(recipe, model, mask)
        log.watch(optimizer, recipe.optimizer.telemetry_every)
        return optimizer

    interrupts = Interrupts(resumable=True, every=recipe.rollout.updates)
    keeper = StateKeeper([one for one in callbacks if isinstance(one, ResumableCallback)])
    trainer = make_trainer(
        recipe,
        prepared,
        run,
        steps=steps,
        build_optimizer=build,
        clip=recipe.optimizer.max_grad_norm if mask is None else 0.0,
        callbacks=[log, *callbacks, interrupts, keeper],
        folder=run.resume,
        save_every=recipe.train.save_every,
        progress=progress,
    )
    if checkpoint is not None:
        keeper.load(checkpoint)
    with interrupts, suppress(NothingLeft):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if interrupts.stopped is not None:
        raise Interrupted(
            f"stopped after step {interrupts.stopped} of {steps}: go on with "
            + resume_command(run, stage)
        )
    return log


def last_row(log: RunLog, run: RunDir) -> dict[str, Any]:
    """Return the figures of the last logged step, whichever part of the run took it; none, if none was."""
    return log.last or next(reversed(run.read_metrics()), {})


def _check_mask(recipe: Recipe, prepared: Prepared, mask: Mask) -> None:
    """Refuse a mask that is empty or foreign, and dtypes that would round what it leaves alone."""
    if not mask.count():
        raise MaskError("the mask is empty: nothing would be trained")
    check_sampling(recipe, prepared.student, mask)
    _check_freezing(prepared, mask)
    folder = local_folder(recipe.student)
    require_lossless(folder, getattr(torch, recipe.student.dtype), prepared.stored_dtype)
    mask.verify(prepared.student)


def _check_freezing(prepared: Prepared, mask: Mask) -> None:
    parameters = own_names(prepared.student)
    for name, pieces in checkpoint_names(prepared.student).items():
        held = any(piece in mask and mask.count(piece) for piece in pieces)
        if held and not parameters[name].requires_grad:
            raise RecipeError(
                f"train.freeze covers {name}, and the mask has coordinates in it: leave it out of one of "
                "them"
            )


def _check_off_mask(recipe: Recipe, prepared: Prepared, run: RunDir, mask: Mask) -> None:
    source = load_model(recipe.student).to(prepared.stored_dtype)  # pyright: ignore
    changed = changed_off_mask(source, run.checkpoint, mask)
    if changed:
        raise MaskLeakError(
            f"{len(changed)} tensors changed outside the mask, among them {changed[0]}: the checkpoint "
            f"{run.checkpoint} must not be trusted; please report this"
        )


def _mask_name(mask: Mask) -> str:
    return f"{mask.provenance.selector or 'mask'} {100 * mask.density():.3g} %"
