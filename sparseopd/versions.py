"""Which versions made a result."""

from __future__ import annotations

import platform
from importlib.metadata import version

import sparseopd

LIBRARIES = ("torch", "transformers", "trl", "datasets", "safetensors", "scipy")


def versions() -> dict[str, str]:
    """Return the versions of this package, Python and the libraries that decide a run's bits."""
    own = {"sparseopd": sparseopd.__version__, "python": platform.python_version()}
    return own | {library: version(library) for library in LIBRARIES}
