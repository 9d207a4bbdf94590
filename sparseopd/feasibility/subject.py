"""What the checks look at: a recipe, and all that is known of its models, data and device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from sparseopd.errors import RequestError
from sparseopd.feasibility.described import Described, describe
from sparseopd.feasibility.devices import Device, find_device
from sparseopd.feasibility.findings import Finding, Level
from sparseopd.feasibility.lengths import find_lengths
from sparseopd.feasibility.plan import Lengths, Plan
from sparseopd.feasibility.planning import plan_training
from sparseopd.feasibility.request import Request, teachers
from sparseopd.recipe import Recipe

Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A request with what is known; None where it is not."""

    request: Request
    student: Described | None
    teachers: dict[str, Described]
    """Those that are known, under the names the recipe gives them."""
    lengths: Lengths
    device: Device | None
    plan: Plan | None
    elsewhere: bool
    """Whether the run is for another machine: its memory was given, or a model is out of reach here.
    What this machine lacks is then no reason against the run."""

    @property
    def recipe(self) -> Recipe:
        """Return the recipe that is checked."""
        return self.request.recipe

    @property
    def known(self) -> list[Described]:
        """Return the models that are known, the student first."""
        return [*([self.student] if self.student else []), *self.teachers.values()]


def gather(request: Request) -> tuple[Subject, list[Finding]]:
    """Look at models, data and device; return what is known, and findings about what is not."""
    recipe, findings = request.recipe, []
    described: dict[str, Described] = {}
    for name, settings in {"student": recipe.student, **teachers(recipe)}.items():
        found = describe(name, settings)
        if isinstance(found, Finding):
            findings.append(found)
        else:
            described[name] = found
    elsewhere = request.memory is not None or any(one.level == "unknown" for one in findings)
    student = described.pop("student", None)
    lengths, about_data = find_lengths(recipe, student)
    findings += about_data
    missing: Level = "warning" if elsewhere else "error"
    device = _or_finding(
        lambda: find_device(recipe.device, request.memory), Finding(missing, "device", ""), findings
    )
    plan = None
    if student is not None and device is not None:
        plan = _or_finding(
            lambda: plan_training(request, student, described, lengths, device),
            Finding("error", "memory", ""),
            findings,
        )
    subject = Subject(
        request=request, student=student, teachers=described, lengths=lengths, device=device,
        plan=plan, elsewhere=elsewhere,
    )  # fmt: skip
    return subject, findings


def _or_finding(
    find: Callable[[], Found], refusal: Finding, findings: list[Finding]
) -> Found | None:
    """Return what `find` returns; None, and the refusal with its sentence, where it refuses."""
    try:
        return find()
    except RequestError as error:
        findings.append(replace(refusal, sentence=str(error)))
        return None
