"""Where an update went: sparsity, spectra and geometry, each beside its nulls.

    base, tuned → analyze → Analysis → analysis.json

    found = sparseopd.analysis.analyze("base", "tuned")
    found.whole["observed"]["share_le_1e-5"], found.findings

Checkpoints are read part by part (parts.py), so that no model is ever in memory, and no model class is
needed. Definitions are those of PAPER.md §3; they are stated where they are computed.
"""

from sparseopd.analysis.analyze import analyze
from sparseopd.analysis.result import Analysis
from sparseopd.analysis.settings import AnalysisSettings

__all__ = ["Analysis", "AnalysisSettings", "analyze"]
