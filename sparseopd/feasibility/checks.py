"""All checks of a recipe, in the order in which they are told.

A check is a function from a `Subject` to findings; to add one, write it and name it in `CHECKS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from sparseopd.errors import RequestError
from sparseopd.feasibility.disk import Disk, check_disk, find_disk
from sparseopd.feasibility.findings import Finding
from sparseopd.feasibility.memory import Estimate
from sparseopd.feasibility.packages import check_packages
from sparseopd.feasibility.request import Request
from sparseopd.feasibility.room import check_memory, find_memory
from sparseopd.feasibility.sequences import (
    check_padding,
    check_positions,
    check_sampling,
    check_thinking,
)
from sparseopd.feasibility.subject import Subject, gather
from sparseopd.feasibility.templates import check_templates
from sparseopd.feasibility.vocabularies import check_special_tokens, check_tokens
from sparseopd.feasibility.weights import (
    check_frozen_mask,
    check_frozen_scope,
    check_masters,
    check_same_model,
    check_stored_updates,
    check_vision,
)

CHECKS: tuple[Callable[[Subject], list[Finding]], ...] = (
    check_tokens,
    check_special_tokens,
    check_templates,
    check_padding,
    check_thinking,
    check_positions,
    check_sampling,
    check_same_model,
    check_vision,
    check_masters,
    check_stored_updates,
    check_frozen_mask,
    check_frozen_scope,
    check_packages,
    check_memory,
    check_disk,
)


@dataclass(frozen=True)
class Report:
    """What was found out about a recipe before anything was loaded."""

    subject: Subject
    findings: list[Finding]
    memory: Estimate | None
    disk: Disk | None

    @property
    def errors(self) -> list[Finding]:
        """Return what makes the run impossible."""
        return [finding for finding in self.findings if finding.level == "error"]

    def raise_errors(self) -> None:
        """Raise `RequestError` with the first reason why the run cannot go on, if there is one."""
        if not self.errors:
            return
        more = f" (and {len(self.errors) - 1} more)" if len(self.errors) > 1 else ""
        raise RequestError(f"the run cannot go on: {self.errors[0].sentence}{more}")

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values, sizes in bytes."""
        memory, disk, device = self.memory, self.disk, self.subject.device
        return {
            "findings": [asdict(finding) for finding in self.findings],
            "memory": {} if memory is None else {"held": memory.held, **memory.phases},
            "peak_bytes": None if memory is None else memory.peak,
            "available_bytes": None if device is None else device.bytes,
            "disk": {}
            if disk is None
            else {**disk.items, "needed_bytes": disk.needed, "free_bytes": disk.free},
        }


def check_recipe(request: Request) -> Report:
    """Look at everything that can be known of a run without loading a weight.

    A model that is out of reach, or a setting that cannot work, is a finding and no exception.
    """
    subject, findings = gather(request)
    findings = [*findings, *(finding for check in CHECKS for finding in check(subject))]
    return Report(subject, findings, find_memory(subject), find_disk(subject))
