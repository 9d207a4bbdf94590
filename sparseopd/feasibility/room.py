"""Does the run fit into the memory of its device?"""

from __future__ import annotations

from sparseopd.feasibility.findings import Finding
from sparseopd.feasibility.memory import Estimate, estimate
from sparseopd.feasibility.remedies import remedies
from sparseopd.feasibility.sizes import readable
from sparseopd.feasibility.subject import Subject

TIGHT = 0.9
"""Share of the device above which a run may fail all the same: estimates are within a tenth or two."""


def find_memory(subject: Subject) -> Estimate | None:
    """Return what the run needs; None where a model or the device is not known, or for an adapter."""
    if subject.plan is None or subject.recipe.train.peft is not None:
        return None
    return estimate(subject.plan)


def check_memory(subject: Subject) -> list[Finding]:
    """Compare the peak with the device, and name what lowers it where it is near or above."""
    if subject.recipe.train.peft is not None:
        return [_of_adapter(subject)]
    found, device, plan = find_memory(subject), subject.device, subject.plan
    if found is None or device is None or plan is None:
        return [Finding("unknown", "memory", "not checked: it depends on the sizes of all models")]
    said = f"a peak of {readable(found.peak)} while {PHASES[found.largest]}, on {device.label}"
    if found.peak <= TIGHT * device.bytes:
        return [Finding("ok", "memory", f"it fits: {said}")]
    ways = remedies(plan, int(TIGHT * device.bytes))
    advice = f"; try {', or '.join(ways)}" if ways else ""
    if found.peak <= device.bytes:
        return [Finding("warning", "memory", f"it is tight: {said}{advice}")]
    return [
        Finding("error", "memory", f"it does not fit: {said}{advice or ': use a larger device'}")
    ]


def _of_adapter(subject: Subject) -> Finding:
    """Return what can be said of a run of train.peft."""
    if subject.request.masked:
        return Finding(
            "error",
            "memory",
            "train.peft trains an adapter in place of a mask: check without --mask and --density, or set "
            "train.peft to null",
        )
    return Finding(
        "unknown",
        "memory",
        "not checked: what PEFT's layers take is not known; set train.peft to null for that of a full run",
    )


PHASES = {
    "sampling": "sampling",
    "scoring": "the models go forward",
    "loss": "the loss goes backward",
    "last layer": "the last layer goes backward",
    "first layer": "the first layer goes backward",
    "update": "updating",
}
"""What happens in each phase of a step, after "while"."""
