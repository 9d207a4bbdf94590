"""Watch the mask while discovery runs: has it settled, and what did it look like on the way?"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from transformers import TrainerCallback

from sparseopd.artifacts import RunDir
from sparseopd.distill import processes
from sparseopd.masks import Mask
from sparseopd.masks.bitmap import Bitmaps
from sparseopd.masks.comparison import Comparison
from sparseopd.masks.select import take_many
from sparseopd.pairs.tensors import Tensors, open_tensors
from sparseopd.recipe import Discover
from sparseopd.selection import Selection, build

DENSITIES = (0.01, 0.05, 0.1, 0.2)
"""Densities whose masks are followed, beside the recipe's own."""
_MOVED = ("topk", "topk-relative", "topk-per-tensor")


class MaskWatch(TrainerCallback):
    """Every few steps, compare the top-k masks of the update so far with those of the check before.

    `rows` holds what `Provenance.stability` describes. Training stops once the Jaccard index at the
    recipe's own density reaches `until_stable`. `keep(step)` is called after each snapshot step.
    """

    def __init__(
        self, settings: Discover, source: Tensors, run: RunDir, keep: Callable[[int], None]
    ) -> None:
        self._settings, self._source, self._run, self._keep = settings, source, run, keep
        tenth = max(2, settings.steps // 10)
        self._every = tenth if settings.check_every is None else settings.check_every
        self._before: tuple[int, Watched] | None = None
        self._last: float | None = None
        self.rows: list[dict[str, float]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Check and keep what is due after this step."""
        step, wanted = state.global_step, self._settings.until_stable
        if self._every and step % self._every == 0:
            self._compare(step, model)
            settled = wanted is not None and self._last is not None and self._last >= wanted
            control.should_training_stop |= settled
        if step in self._settings.snapshots:
            self._keep(step)

    def unsettled(self) -> list[str]:
        """A sentence if `until_stable` was asked for and not reached."""
        wanted = self._settings.until_stable
        if wanted is None or (self._last is not None and self._last >= wanted):
            return []
        found = "no two checks could be compared"
        if self._last is not None:
            found = f"the Jaccard index was {self._last:.2f}"
        return [f"the mask had not settled after all steps: {found}, and {wanted:g} was asked for"]

    def _compare(self, step: int, model: Any) -> None:
        now = watched_masks(self._settings, self._source, model)
        if self._before is not None:
            since, before = self._before
            new = [
                {"step": step, "since": since, "density": density, "jaccard": mask.jaccard(other)}
                for (density, mask), other in zip(
                    now.masks.items(), before.masks.values(), strict=True
                )
            ]
            self.rows += new
            own = next((row["jaccard"] for row in new if row["density"] == now.own), None)
            self._last = None if now.idle or before.idle else own
            if processes.is_main():
                with self._run.stability.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(row) + "\n" for row in new)
        self._before = step, now


@dataclass(frozen=True)
class Watched:
    """The top-k masks of the update so far."""

    masks: dict[float, Mask]
    """By density."""
    own: float
    """The density the recipe asks for."""
    idle: int
    """Coordinates in the mask of that density that have not moved yet: drawn alike at every check, so
    that masks with some would look settled."""


def watched_masks(settings: Selection, source: Tensors, model: Any) -> Watched:
    """Take the top-k masks of the model's update at `DENSITIES` and the recipe's own.

    They are taken in the recipe's scope and budget, by its selector if that ranks the update, else by
    |Δ|. Densities that round to no coordinate are left out.
    """
    comparison = Comparison(source, open_tensors(model), settings.include, settings.exclude)
    numel = sum(comparison.numels.values())
    own = own_density(settings, numel)
    densities = [density for density in sorted({*DENSITIES, own}) if round(density * numel)]
    moved = settings.selector in _MOVED
    base = build(
        selector=settings.selector if moved else "topk",
        budget=settings.budget if settings.ranks else None,
        relative_to=settings.relative_to,
    )
    found = take_many(comparison, [replace(base, density=density) for density in densities])
    masks = {
        density: Mask(Bitmaps.held(dict(chosen.bitmaps)))
        for density, chosen in zip(densities, found, strict=True)
    }
    idle = {density: chosen.idle for density, chosen in zip(densities, found, strict=True)}
    return Watched(masks, own, idle.get(own, 0))


def own_density(settings: Selection, numel: int) -> float:
    """Return the density the recipe asks for; a tenth for selectors that are not asked for one."""
    return settings.k / numel if settings.k else settings.density or 0.1
