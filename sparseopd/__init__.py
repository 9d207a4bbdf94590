"""Sparse-subnetwork fine-tuning under on-policy distillation.

    discover → mask → train --mask → evaluate → report

Names load on first use, so that `import sparseopd` and `sparseopd --help` import no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sparseopd.errors import SparseOPDError

if TYPE_CHECKING:
    from sparseopd.adapter_files import SparseAdapter
    from sparseopd.analysis import Analysis, AnalysisSettings, analyze
    from sparseopd.masks import Mask, select
    from sparseopd.optim import MaskedOptimizer
    from sparseopd.overlays import apply, remove
    from sparseopd.recipe import Recipe

__version__ = "0.1.0"
__all__ = [
    "Analysis",
    "AnalysisSettings",
    "Mask",
    "MaskedOptimizer",
    "Recipe",
    "SparseAdapter",
    "SparseOPDError",
    "analyze",
    "apply",
    "remove",
    "select",
]

_HOME = {
    "Analysis": "sparseopd.analysis",
    "AnalysisSettings": "sparseopd.analysis",
    "analyze": "sparseopd.analysis",
    "Mask": "sparseopd.masks",
    "select": "sparseopd.masks",
    "MaskedOptimizer": "sparseopd.optim",
    "apply": "sparseopd.overlays",
    "remove": "sparseopd.overlays",
    "Recipe": "sparseopd.recipe",
    "SparseAdapter": "sparseopd.adapter_files",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'sparseopd' has no attribute {name!r}")
