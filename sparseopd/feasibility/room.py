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
    """Return what the run needs; None where a model or the device is not known."""
    return None if subject.plan is None else estimate(subject.plan)


def check_memory(subject: Subject) -> list[Finding]:
    """Compare the peak with the device, and name what lowers it where it is near or above."""
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


PHASES = {
    "sampling": "sampling",
    "scoring": "the models go forward",
    "loss": "the loss goes backward",
    "last layer": "the last layer goes backward",
    "first layer": "the first layer goes backward",
    "update": "updating",
}
"""What happens in each phase of a step, after "while"."""
