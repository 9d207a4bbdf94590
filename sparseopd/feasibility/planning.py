"""From a recipe, and what is known of its models, to the plan of one training process."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from sparseopd.feasibility.described import Described
from sparseopd.feasibility.devices import Device
from sparseopd.feasibility.plan import Lengths, Plan, PlannedTeacher
from sparseopd.feasibility.request import Request, teachers
from sparseopd.feasibility.shapes import ModelShape
from sparseopd.masks.scope import in_scope
from sparseopd.optim.build import checkpoint_names
from sparseopd.recipe import Recipe, Teacher
from sparseopd.settings.batches import BatchShape, batch_shape
from sparseopd.settings.objective import GIVEN

VLLM_SHARE = 0.3
"""What TRL lets a colocated vLLM take of the device (trl 1.16)."""


def plan_training(
    request: Request,
    student: Described,
    described: Mapping[str, Described],
    lengths: Lengths,
    device: Device,
) -> Plan | None:
    """Return the plan of one training process; None where a model's dimensions are not known.

    Raises `MaskError` for a mask of another model, or words that match no parameter.
    """
    recipe, wanted = request.recipe, teachers(request.recipe)
    held = {name: one for name, one in wanted.items() if one.server is None}
    shapes = {name: described[name].shape for name in held if name in described}
    if student.shape is None or len(shapes) < len(held) or None in shapes.values():
        return None
    batches = batch_shape(recipe.objective.kind, recipe.train, recipe.rollout)
    frozen = _frozen(student.shape, recipe.train.freeze)
    vllm = recipe.rollout.vllm
    return Plan(
        student=student.shape,
        dtype=recipe.student.dtype,
        teachers={
            name: PlannedTeacher(shape, held[name], _beside(held[name], device))
            for name, shape in shapes.items()
            if shape is not None
        },
        kind=recipe.objective.kind,
        lengths=lengths,
        micro=batches.micro,
        accumulation=batches.accumulation,
        rollouts=0 if vllm == "server" else sampled_at_once(recipe, batches),
        optimizer=recipe.optimizer,
        masked=_masked(request, student.shape, frozen),
        frozen=frozen,
        checkpointing=recipe.train.gradient_checkpointing,
        device=device.kind,
        autocast=device.bfloat16 if recipe.train.bf16 is None else recipe.train.bf16,
        vllm_share=VLLM_SHARE if vllm == "colocate" else 0.0,
        device_bytes=device.bytes,
    )


def sampled_at_once(recipe: Recipe, batches: BatchShape) -> int:
    """Return the completions that this process holds a cache for; 0 where the student samples none."""
    if recipe.objective.kind in GIVEN:
        return 0
    return min(recipe.rollout.batch_size or batches.rollouts, batches.rollouts)


def _beside(teacher: Teacher, device: Device) -> bool:
    if teacher.device is None:
        return True
    other = torch.device(teacher.device)
    return other.type == device.kind and not other.index


def _frozen(shape: ModelShape, words: list[str]) -> frozenset[str]:
    names = list(shape.numels)
    return frozenset(names) - frozenset(in_scope(names, [], words)) if words else frozenset()


def _masked(request: Request, shape: ModelShape, frozen: frozenset[str]) -> dict[str, int] | None:
    """Return the mask's coordinates in each parameter."""
    if request.mask is not None:
        pieces = checkpoint_names(shape.model)
        shapes = {name: size for several in pieces.values() for name, size in several.items()}
        request.mask.verify_shapes(shapes, f"the student {request.recipe.student.path}")
        return {
            name: sum(request.mask.count(piece) for piece in several if piece in request.mask)
            for name, several in pieces.items()
        }
    if request.density is None:
        return None
    discover = request.recipe.discover
    numels = shape.numels
    scope = in_scope(numels, discover.include, discover.exclude)
    return {name: round(request.density * numels[name]) for name in scope if name not in frozen}
