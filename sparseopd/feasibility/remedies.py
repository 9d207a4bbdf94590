"""Which settings lower a run's peak of memory most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sparseopd.feasibility.memory import estimate
from sparseopd.feasibility.plan import Plan
from sparseopd.feasibility.sizes import readable

WORTH = 0.03
"""A remedy that saves a smaller share of the peak is not named."""
PLANNED_DENSITY = 0.1

Change = Callable[[Plan, int], tuple[str, Plan] | None]
"""From a plan and the bytes there are to a setting and the plan it makes; None where it does nothing."""


def remedies(plan: Plan, available: int, count: int = 2) -> list[str]:
    """Return the settings that lower the peak most, each with the peak it leads to.

    Those after which the run fits come first; where none suffices, they are put together.
    """
    single = _useful(plan, available)
    if not single:
        return []
    if single[0][1] <= available:
        return [f"{setting} ({readable(peak)})" for setting, peak, _ in single[:count]]
    return [_together(plan, available)]


def _useful(plan: Plan, available: int) -> list[tuple[str, int, Plan]]:
    """Return what lowers the peak, the most first."""
    now = estimate(plan).peak
    tried = [found for change in CHANGES if (found := change(plan, available)) is not None]
    peaks = [(setting, estimate(changed).peak, changed) for setting, changed in tried]
    useful = [one for one in peaks if one[1] < (1 - WORTH) * now]
    return sorted(useful, key=lambda one: one[1])


def _together(plan: Plan, available: int) -> str:
    """Apply the best remedy, then the best that is left, until the run fits or nothing helps."""
    settings, peak = [], estimate(plan).peak
    while peak > available and (left := _useful(plan, available)):
        setting, peak, plan = left[0]
        settings.append(setting)
    *others, last = settings
    all_of_them = f"{', '.join(others)} and {last}" if others else last
    return f"{all_of_them} ({readable(peak)})"


def _checkpointing(plan: Plan, available: int) -> tuple[str, Plan] | None:
    if plan.checkpointing:
        return None
    return "train.gradient_checkpointing=true", replace(plan, checkpointing=True)


def _micro_batch(plan: Plan, available: int) -> tuple[str, Plan] | None:
    """The largest that fits, else one completion at a time."""
    whole = plan.micro * plan.accumulation
    found = None
    for micro in (size for size in range(plan.micro - 1, 0, -1) if whole % size == 0):
        changed = replace(plan, micro=micro, accumulation=whole // micro)
        found = f"train.micro_batch_size={micro}", changed
        if estimate(changed).peak <= available:
            break
    return found


def _parts(plan: Plan, available: int) -> tuple[str, Plan] | None:
    """Sample as many completions at once as are trained on at once."""
    if plan.kind == "grpo" or plan.vllm_share or plan.rollouts <= plan.micro:
        return None
    return f"rollout.batch_size={plan.micro}", replace(plan, rollouts=plan.micro)


def _server(plan: Plan, available: int) -> tuple[str, Plan] | None:
    if not plan.rollouts:
        return None
    return "rollout.vllm=server", replace(plan, rollouts=0, vllm_share=0.0)


def _mask(plan: Plan, available: int) -> tuple[str, Plan] | None:
    if plan.masked is not None:
        return None
    masked = {name: round(PLANNED_DENSITY * k) for name, k in plan.trained.items()}
    return f"a mask of {PLANNED_DENSITY:.0%}", replace(plan, masked=masked)


def _eight_bit_state(plan: Plan, available: int) -> tuple[str, Plan] | None:
    if plan.optimizer.name not in ("adamw", "adam"):
        return None
    optimizer = replace(plan.optimizer, name="adamw-8bit")
    return "optimizer.name=adamw-8bit", replace(plan, optimizer=optimizer)


def _half_student(plan: Plan, available: int) -> tuple[str, Plan] | None:
    if plan.masked is None or plan.dtype != "float32":  # a full run needs float32 masters
        return None
    return "student.dtype=bfloat16", replace(plan, dtype="bfloat16")


def _half_teacher(plan: Plan, available: int) -> tuple[str, Plan] | None:
    if all(one.settings.dtype != "float32" for one in plan.teachers_here.values()):
        return None
    return "teacher.dtype=bfloat16", _with_teachers(plan, dtype="bfloat16")


def _quantized_teacher(plan: Plan, available: int) -> tuple[str, Plan] | None:
    if all(one.settings.quantization == "4bit" for one in plan.teachers_here.values()):
        return None
    return "teacher.quantization=4bit", _with_teachers(plan, quantization="4bit")


def _with_teachers(plan: Plan, **settings: str) -> Plan:
    changed = {
        name: replace(one, settings=replace(one.settings, **settings))
        for name, one in plan.teachers.items()
    }
    return replace(plan, teachers=changed)


CHANGES: tuple[Change, ...] = (
    _checkpointing,
    _micro_batch,
    _parts,
    _server,
    _mask,
    _half_student,
    _half_teacher,
    _quantized_teacher,
    _eight_bit_state,
)
