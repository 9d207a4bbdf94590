"""What every run writes down about itself."""

from __future__ import annotations

import platform
from importlib.metadata import version

import sparseopd
from sparseopd.artifacts import RunDir, written_whole
from sparseopd.recipe import Recipe

LIBRARIES = ("torch", "transformers", "trl", "datasets", "safetensors")


def versions() -> dict[str, str]:
    """Return the versions of this package, Python and the libraries that decide a run's bits."""
    own = {"sparseopd": sparseopd.__version__, "python": platform.python_version()}
    return own | {library: version(library) for library in LIBRARIES}


def write_recipe(run: RunDir, recipe: Recipe) -> None:
    """Write the resolved recipe."""
    with written_whole(run.recipe) as temporary:
        temporary.write_text(recipe.to_yaml(), encoding="utf-8")
