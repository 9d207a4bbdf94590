"""`train`: OPD from the source weights, in full or only at a mask's coordinates.

    sparseopd train RECIPE [--mask RUN/mask.safetensors] -o RUN2

A masked run starts from the source again (weights, optimizer, schedule), trains k-vectors only, and
ends by comparing the written checkpoint with the source: every coordinate off the mask must have its
bits, or the run fails.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from sparseopd.artifacts import Progress, RunDir
from sparseopd.distill.checkpoint import (
    changed_off_mask,
    checkpoint_bytes,
    require_lossless,
    save_checkpoint,
)
from sparseopd.distill.facts import record, write_recipe
from sparseopd.distill.prepare import Prepared, prepare, require_masters
from sparseopd.distill.trainer import RunLog, make_trainer
from sparseopd.errors import MaskError, TrainingError
from sparseopd.masks import Mask
from sparseopd.optim import MaskedOptimizer
from sparseopd.pairs import load_model, local_folder
from sparseopd.recipe import Optimizer, Recipe

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}


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
    run = RunDir.unused(output)
    started = time.monotonic()
    if mask is None:
        require_masters(recipe, "a full run")
    prepared = prepare(recipe)
    if mask is not None:
        _check_mask(recipe, prepared, mask)
    run.create(checkpoint_bytes(prepared.student, prepared.stored_dtype))
    write_recipe(run, recipe)
    if mask is not None:
        mask.save(run.mask)
    log = run_training(
        recipe, prepared, run, steps=recipe.train.steps, mask=mask, stage="train", progress=progress
    )
    save_checkpoint(prepared.student, prepared.processor, run.checkpoint, prepared.stored_dtype)
    if mask is not None:
        _check_off_mask(recipe, prepared, run, mask)
    record(
        run,
        recipe,
        kind="full" if mask is None else "masked",
        name=name or ("full" if mask is None else _mask_name(mask)),
        steps=recipe.train.steps,
        lr=learning_rate(recipe.optimizer, masked=mask is not None),
        seconds=time.monotonic() - started,
        mask=mask,
        final=log.last,
        notes=prepared.notes,
    )
    return run


def run_training(
    recipe: Recipe,
    prepared: Prepared,
    run: RunDir,
    *,
    steps: int,
    mask: Mask | None,
    stage: str,
    progress: Progress | None,
    callbacks: Sequence[TrainerCallback] = (),
) -> RunLog:
    """Train `prepared.student` in place for `steps` updates; return the log with its last line."""
    log = RunLog(run.metrics, stage, progress)

    def build(model: nn.Module) -> torch.optim.Optimizer:
        optimizer = build_optimizer(recipe.optimizer, model, mask)
        log.optimizer = optimizer if isinstance(optimizer, MaskedOptimizer) else None
        return optimizer

    trainer = make_trainer(
        recipe,
        student=prepared.student,
        teacher=prepared.teacher,
        processor=prepared.processor,
        prompts=prepared.prompts.train,
        steps=steps,
        build_optimizer=build,
        clip=recipe.optimizer.max_grad_norm if mask is None else 0.0,
        callbacks=[log, *callbacks],
        folder=run.path,
    )
    trainer.train()
    return log


def build_optimizer(
    settings: Optimizer, model: nn.Module, mask: Mask | None
) -> torch.optim.Optimizer:
    """Build the recipe's optimizer over the whole model, or over the mask's k-vectors."""
    kind = OPTIMIZERS[settings.name]
    options: dict[str, Any] = {"weight_decay": settings.weight_decay}
    options["lr"] = learning_rate(settings, masked=mask is not None)
    if settings.betas is not None:
        options["betas"] = settings.betas
    if settings.momentum is not None:
        options["momentum"] = settings.momentum
    if mask is None:
        return kind(model.parameters(), **options)
    return MaskedOptimizer(
        model, mask, kind, max_grad_norm=settings.max_grad_norm or None, **options
    )


def learning_rate(settings: Optimizer, *, masked: bool) -> float:
    """Return the learning rate of a full or of a masked run."""
    return settings.masked_lr if masked and settings.masked_lr is not None else settings.lr


def _check_mask(recipe: Recipe, prepared: Prepared, mask: Mask) -> None:
    """Refuse a mask that is empty or foreign, and dtypes that would round what it leaves alone."""
    if not mask.count():
        raise MaskError("the mask is empty: nothing would be trained")
    folder = local_folder(recipe.student)
    require_lossless(folder, getattr(torch, recipe.student.dtype), prepared.stored_dtype)
    mask.verify(prepared.student)


def _check_off_mask(recipe: Recipe, prepared: Prepared, run: RunDir, mask: Mask) -> None:
    source = load_model(recipe.student).to(prepared.stored_dtype)  # pyright: ignore
    changed = changed_off_mask(source, run.checkpoint, mask)
    if changed:
        raise TrainingError(
            f"{len(changed)} tensors changed outside the mask, among them {changed[0]}: the checkpoint "
            f"{run.checkpoint} must not be trusted; please report this"
        )


def _mask_name(mask: Mask) -> str:
    return f"{mask.provenance.selector or 'mask'} {100 * mask.density():.3g} %"
