"""Watch the mask while discovery runs: has it settled, and what did it look like on the way?"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparseopd.artifacts import RunDir, read_json, write_json
from sparseopd.distill import processes
from sparseopd.distill.resume import ResumableCallback, write_rows
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
_STATE = "watch.json"


class MaskWatch(ResumableCallback):
    """Every few steps, compare the top-k masks of the update so far with those of the check before.

    `rows` holds what `Provenance.stability` describes. Training stops once the Jaccard index at the
    recipe's own density reaches `until_stable`. `keep(step)` is called after each snapshot step; what
    it has to say is kept in `missed`.
    """

    def __init__(
        self, settings: Discover, source: Tensors, run: RunDir, keep: Callable[[int], str | None]
    ) -> None:
        self._settings, self._source, self._run, self._keep = settings, source, run, keep
        tenth = max(2, settings.steps // 10)
        self._every = tenth if settings.check_every is None else settings.check_every
        self._before: Watched | None = None
        self._last: float | None = None
        self.rows: list[dict[str, float]] = []
        self.missed: list[str] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for no step more where a resumed run had settled already."""
        control.should_training_stop |= self._settled()

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Check and keep what is due after this step."""
        step = state.global_step
        if self._every and step % self._every == 0:
            self._compare(step, model)
            control.should_training_stop |= self._settled()
        if step in self._settings.snapshots:
            missed = self._keep(step)
            self.missed += [missed] if missed else []

    def save_state(self, folder: Path) -> None:
        """Write the masks of the last check, and what was found so far."""
        before = None if self._before is None else self._before.save(folder)
        found = {"rows": self.rows, "last": self._last, "missed": self.missed, "before": before}
        write_json(folder / _STATE, found)

    def load_state(self, folder: Path) -> None:
        """Take over what was found until then; later rows of stability.jsonl are dropped."""
        found = read_json(folder / _STATE)
        self.rows, self._last, self.missed = found["rows"], found["last"], found["missed"]
        self._before = Watched.load(folder, **found["before"]) if found["before"] else None
        if processes.is_main():
            write_rows(self._run.stability, self.rows)

    def unsettled(self) -> list[str]:
        """A sentence if `until_stable` was asked for and not reached."""
        wanted = self._settings.until_stable
        if wanted is None or self._settled():
            return []
        found = "no two checks could be compared"
        if self._last is not None:
            found = f"the Jaccard index was {self._last:.2f}"
        return [f"the mask had not settled after all steps: {found}, and {wanted:g} was asked for"]

    def _settled(self) -> bool:
        wanted = self._settings.until_stable
        return wanted is not None and self._last is not None and self._last >= wanted

    def _compare(self, step: int, model: Any) -> None:
        now, before = watched_masks(self._settings, self._source, model, step), self._before
        if before is not None:
            new = [
                {
                    "step": step,
                    "since": before.step,
                    "density": density,
                    "jaccard": mask.jaccard(other),
                }
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
        self._before = now


@dataclass(frozen=True)
class Watched:
    """The top-k masks of the update so far."""

    step: int
    masks: dict[float, Mask]
    """By density."""
    own: float
    """The density the recipe asks for."""
    idle: int
    """Coordinates in the mask of that density that have not moved yet: drawn alike at every check, so
    that masks with some would look settled."""

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the masks into a folder; return what else `load` needs."""
        for index, mask in enumerate(self.masks.values()):
            mask.save(_file(folder, index))
        known = {"step": self.step, "own": self.own, "idle": self.idle}
        return {**known, "densities": list(self.masks)}

    @classmethod
    def load(cls, folder: Path, densities: list[float], **known: Any) -> Watched:
        """Read what `save` wrote, into memory, as the folder will be removed."""
        masks = {
            density: _held(Mask.load(_file(folder, index)).bitmaps)
            for index, density in enumerate(densities)
        }
        return cls(masks=masks, **known)


def _file(folder: Path, index: int) -> Path:
    return folder / f"mask-{index}.safetensors"


def _held(bitmaps: Bitmaps) -> Mask:
    return Mask(Bitmaps.held(dict(bitmaps)))


def watched_masks(settings: Selection, source: Tensors, model: Any, step: int) -> Watched:
    """Take the top-k masks of the model's update after `step`, at `DENSITIES` and the recipe's own.

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
        density: _held(chosen.bitmaps) for density, chosen in zip(densities, found, strict=True)
    }
    idle = {density: chosen.idle for density, chosen in zip(densities, found, strict=True)}
    return Watched(step, masks, own, idle.get(own, 0))


def own_density(settings: Selection, numel: int) -> float:
    """Return the density the recipe asks for; a tenth for selectors that are not asked for one."""
    return settings.k / numel if settings.k else settings.density or 0.1
