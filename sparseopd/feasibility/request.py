"""What is asked: a recipe, the mask it trains if any, and where it would run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sparseopd.errors import RequestError
from sparseopd.feasibility.sizes import parse_size
from sparseopd.masks import Mask
from sparseopd.recipe import Recipe, Teacher
from sparseopd.settings.objective import WITHOUT_TEACHER


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be checked."""

    recipe: Recipe
    mask: Mask | None = None
    """The mask of a masked run."""
    density: float | None = None
    """Or the share of coordinates it would have."""
    memory: int | None = None
    """Bytes of the device to plan for, in place of this machine's."""
    output: Path = Path()
    """The folder that the run would be written to, or one above it."""

    @property
    def masked(self) -> bool:
        """Whether the run trains a mask."""
        return self.mask is not None or self.density is not None


def teachers(recipe: Recipe) -> dict[str, Teacher]:
    """Return the teachers that a run loads, as the recipe calls them."""
    if recipe.objective.kind in WITHOUT_TEACHER:
        return {}
    if recipe.teacher is not None:
        return {"teacher": recipe.teacher}
    return {f"teachers.{name}": one for name, one in recipe.teachers.items()}


def make_request(
    recipe: Recipe,
    *,
    mask: Path | None = None,
    density: float | None = None,
    memory: str | None = None,
    output: Path | None = None,
) -> Request:
    """Make a request of what a user writes: a mask's file, a size such as "24GiB".

    Raises `RequestError` for what cannot be meant, `MaskFileError` for a file that is no mask.
    """
    if mask is not None and density is not None:
        raise RequestError("--mask and --density both say what is trained: give one of them")
    if density is not None and not 0 < density <= 1:
        raise RequestError(f"--density is {density:g}: give a share above 0 and up to 1")
    return Request(
        recipe=recipe,
        mask=None if mask is None else Mask.load(mask),
        density=density,
        memory=None if memory is None else parse_size(memory),
        output=output or Path(),
    )
