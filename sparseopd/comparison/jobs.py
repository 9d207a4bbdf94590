"""The pieces of work of a comparison, each with a name of its own for what it depends on.

    Training       a run folder            runs/NAME
    Choosing       a mask                  masks/NAME.safetensors
    Measuring      scores of one model     measures/NAME.json
    Agreeing       how alike two runs are  agreements/NAME.json
    Pricing        what a run costs        costs/NAME.json
    Looking        an analysis             analyses/NAME.json
    Overlapping    overlaps of supports    overlaps/NAME.json
    Settling       overlaps of masks       overlaps/NAME.json

A name ends in a hash of everything the result depends on (recipe, mask, seed…), so that work is shared
between arms, a change of the recipe leaves what it does not touch, and a second start does nothing twice.
Work is done in another process (workers.py, work.py); what stands under a name is whole.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from sparseopd.recipe import Recipe

FAILED = "failed.json"
"""In place of run.json: why a run ended early, such as a loss that is no number at a large rate."""

Split = Literal["validation", "test"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """Something to be done once."""

    label: str
    """What it is, for people; no part of its hash."""

    folder = ""
    suffix = ""

    @cached_property
    def key(self) -> str:
        """Return the name of its result."""
        slug = re.sub(r"[^a-z0-9.%]+", "-", self.label.lower()).strip("-")[:80]
        return f"{slug}-{self.hash}"

    @cached_property
    def hash(self) -> str:
        """Return 12 hex digits of what the result depends on."""
        text = json.dumps([type(self).__name__, self.depends_on()], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    def depends_on(self) -> Any:
        """Return everything the result depends on, as JSON holds it."""
        raise NotImplementedError

    def needs(self) -> list[Job]:
        """Return the jobs whose results it reads."""
        return []

    def path(self, root: Path) -> Path:
        """Return where its result lies."""
        return root / self.folder / f"{self.key}{self.suffix}"

    def is_done(self, root: Path) -> bool:
        """Whether the result is there, whole."""
        return self.path(root).exists()


@dataclass(frozen=True, kw_only=True)
class Training(Job):
    """One training run."""

    recipe: Recipe
    mask: Choosing | None = None

    folder = "runs"

    def depends_on(self) -> Any:
        """The recipe and the mask's hash."""
        return [_said(self.recipe), self.mask.hash if self.mask else None]

    def needs(self) -> list[Job]:
        """The mask."""
        return [self.mask] if self.mask else []

    def is_done(self, root: Path) -> bool:
        """Whether the run has ended."""
        run = self.path(root)
        return (run / "run.json").is_file() or (run / FAILED).is_file()


@dataclass(frozen=True, kw_only=True)
class Choosing(Job):
    """One mask."""

    student: str
    """The base's path."""
    revision: str | None = None
    """Its revision on the hub."""
    selection: dict[str, Any]
    """Fields of `selection.Selection`."""
    seed: int
    run: Training | None = None
    """The run whose update is ranked."""
    steps: int | None = None
    """After so many of its steps."""
    like: Choosing | None = None
    """The mask that a random one is drawn like."""

    folder = "masks"
    suffix = ".safetensors"

    def depends_on(self) -> Any:
        """The selection, and what it looks at."""
        run = self.run.hash if self.run else None
        like = self.like.hash if self.like else None
        known = [self.student, self.selection, self.seed, run, self.steps, like]
        return known if self.revision is None else [*known, self.revision]

    def needs(self) -> list[Job]:
        """The run or the mask it looks at."""
        return [job for job in (self.run, self.like) if job is not None]


@dataclass(frozen=True, kw_only=True)
class Measuring(Job):
    """One model on a split of the prompts."""

    recipe: Recipe
    """Says how: prompts, sampling, teacher; its evaluate.seed seeds the samples."""
    split: Split
    validation: int
    """Rows at the end of the training data that are the validation split."""
    run: Training | None = None
    """Whose checkpoint; None for the model at `role`."""
    role: Literal["run", "source", "teacher"] = "run"
    other_task: str | None = None

    folder = "measures"
    suffix = ".json"

    def depends_on(self) -> Any:
        """How it is measured, and what."""
        run = self.run.hash if self.run else self.role
        return [_said(self.recipe), self.split, self.validation, run, self.other_task]

    def needs(self) -> list[Job]:
        """The run."""
        return [self.run] if self.run else []


@dataclass(frozen=True, kw_only=True)
class OfRun(Job):
    """Something that is found out of one run."""

    run: Training

    suffix = ".json"

    def depends_on(self) -> Any:
        """The run."""
        return self.run.hash

    def needs(self) -> list[Job]:
        """The run."""
        return [self.run]


@dataclass(frozen=True, kw_only=True)
class Looking(OfRun):
    """The analysis of one update beside its nulls."""

    folder = "analyses"


@dataclass(frozen=True, kw_only=True)
class Agreeing(Job):
    """How many weights two runs agree in."""

    run: Training
    reference: Training

    folder = "agreements"
    suffix = ".json"

    def depends_on(self) -> Any:
        """The runs."""
        return [self.run.hash, self.reference.hash]

    def needs(self) -> list[Job]:
        """The runs."""
        return [self.run, self.reference]


@dataclass(frozen=True, kw_only=True)
class Overlapping(Job):
    """The supports of several updates, and their masks, every two of them."""

    runs: dict[str, Training]
    top: float = 0.1
    """Density of the masks."""

    folder = "overlaps"
    suffix = ".json"

    def depends_on(self) -> Any:
        """The runs."""
        return [self.top, {name: run.hash for name, run in self.runs.items()}]

    def needs(self) -> list[Job]:
        """The runs."""
        return list(self.runs.values())


@dataclass(frozen=True, kw_only=True)
class Settling(Job):
    """The masks of one density after several steps of a run, each beside the last."""

    student: str
    masks: dict[int, Choosing] = field(default_factory=dict)
    """By step."""

    folder = "overlaps"
    suffix = ".json"

    def depends_on(self) -> Any:
        """The masks."""
        return {step: mask.hash for step, mask in self.masks.items()}

    def needs(self) -> list[Job]:
        """The masks."""
        return list(self.masks.values())


@dataclass(frozen=True, kw_only=True)
class Pricing(OfRun):
    """What a kind of run costs: coordinates, bytes, memory."""

    folder = "costs"


def _said(recipe: Recipe) -> Any:
    """Return what a recipe says; a setting that is not there says nothing, whichever version knows it."""
    return _without_none(asdict(recipe))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value
