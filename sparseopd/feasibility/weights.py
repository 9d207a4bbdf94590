"""Checks of the weights a run trains: settings that cannot work, or are known to disappoint."""

from __future__ import annotations

from sparseopd.feasibility.findings import Finding
from sparseopd.feasibility.request import teachers
from sparseopd.feasibility.subject import Subject
from sparseopd.masks.scope import block_of, matches
from sparseopd.pairs import resolve_path

VISIBLE_LR = 1e-5
"""Below this rate most single updates are smaller than half a bf16 step of the weight they change."""


def check_masters(subject: Subject) -> list[Finding]:
    """Refuse a full run of 16-bit weights, which lose small updates."""
    recipe = subject.recipe
    if subject.request.masked or recipe.student.dtype == "float32":
        return []
    return [
        Finding(
            "error",
            "precision",
            f"a full run needs fp32 masters and student.dtype is {recipe.student.dtype}: set it to float32, "
            "or check a masked run with --mask or --density",
        )
    ]


def check_stored_updates(subject: Subject) -> list[Finding]:
    """Say where most of a trained update is rounded away when the checkpoint is stored."""
    recipe, masked = subject.recipe, subject.request.masked
    lr = recipe.optimizer.masked_lr if masked else None
    lr = recipe.optimizer.lr if lr is None else lr
    if recipe.train.save_dtype != "source" or lr >= VISIBLE_LR or subject.student is None:
        return []
    stored = str(subject.student.config.dtype).removeprefix("torch.")
    if stored not in ("bfloat16", "float16"):
        return []
    return [
        Finding(
            "note",
            "precision",
            f"at a learning rate of {lr:g} most updates vanish in the {stored} of the stored checkpoint: "
            "train.save_dtype=float32 keeps them",
        )
    ]


def check_same_model(subject: Subject) -> list[Finding]:
    """Warn of a teacher that knows no more than the student."""
    recipe = subject.recipe
    if recipe.data.privileged is not None:
        return []
    own = resolve_path(recipe.student.path), recipe.student.revision
    same = [
        name
        for name, one in teachers(recipe).items()
        if (resolve_path(one.path), one.revision) == own
    ]
    return [
        Finding(
            "warning",
            "teacher",
            f"{name} is the student itself and sees no more than it, so there is nothing to learn: name "
            "another teacher, or show it more with data.privileged",
        )
        for name in same
    ]


def check_vision(subject: Subject) -> list[Finding]:
    """Say whether a vision tower is trained."""
    plan = subject.plan
    if plan is None or plan.student.vision is None:
        return []
    tower = {name for name in plan.student.numels if block_of(name) == "vision"}
    if tower <= plan.frozen:
        return [Finding("ok", "vision", "the vision tower stays as it is")]
    trained = sum(k for name, k in plan.trained.items() if name in tower)
    if not trained:
        return [Finding("ok", "vision", "no coordinate of the vision tower is trained")]
    return [
        Finding(
            "note",
            "vision",
            f"the vision tower is trained as well, {trained:,} of its "
            f"{plan.student.block('vision'):,} parameters: train.freeze=[vision] leaves it alone",
        )
    ]


def check_frozen_scope(subject: Subject) -> list[Finding]:
    """Refuse to look for a mask where nothing is trained."""
    plan, recipe = subject.plan, subject.recipe
    if plan is None or subject.request.mask is not None:
        return []
    names = plan.student.numels
    asked = {word: {n for n in names if matches(n, word)} for word in recipe.discover.include}
    return [
        Finding(
            "error",
            "mask",
            f"discover.include asks for {word}, which train.freeze keeps as it is: drop it from one of "
            "them",
        )
        for word, found in asked.items()
        if found and found <= plan.frozen
    ]


def check_frozen_mask(subject: Subject) -> list[Finding]:
    """Refuse a mask with coordinates in parameters that stay as they are."""
    plan = subject.plan
    if plan is None or plan.masked is None:
        return []
    both = [name for name, k in plan.masked.items() if k and name in plan.frozen]
    if not both:
        return []
    return [
        Finding(
            "error",
            "mask",
            f"the mask has coordinates in {len(both)} tensors that train.freeze keeps as they are, such as "
            f"{both[0]}: exclude them from the mask, or drop train.freeze",
        )
    ]
