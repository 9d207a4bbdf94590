"""The analysis of one update: everything measured, as analysis.json holds it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sparseopd.artifacts import read_json, write_json
from sparseopd.errors import RunFolderError

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Figures of an update, beside their nulls.

    A side is a dict of figures by name: "observed", "master" (before rounding; None where that is not
    known) or a null, "shuffled" or "gaussian" ({} where none was drawn). Shares are 0…1. Names are those
    of the module that computes them: sparsity.py, spectrum.py, geometry.py, coverage.py.
    """

    name: str = ""
    """What tables call the update; `tuned` where it has no name."""
    base: str
    tuned: str
    master: str | None
    """Where the figures before rounding come from; the tuned checkpoint itself, if it is stored wider
    than it was compared in."""
    dtypes: dict[str, Any]
    """"stored": {"base", "tuned", "master": lists}, "compared": list, "summed", "spectra"."""
    settings: dict[str, Any]
    """AnalysisSettings, draws decided, and the version."""
    whole: dict[str, Any]
    """Sides of the whole model. Nulls hold {"mean", "sd"} of each figure over the draws."""
    groups: dict[str, dict[str, dict[str, Any]]]
    """The same by "block", "module" and "layer", each by name."""
    tensors: list[dict[str, Any]]
    """One row a matrix or vector: "name", "layer", "module", "block", "shape", "numel", "stored",
    "compared", its sides (nulls: one value a draw), and "curve": σ_i/σ₁ of each side at the ranks of
    `measure.CURVE`, as shares of min(d)."""
    verdicts: dict[str, dict[str, Any]]
    """verdict.verdicts of the whole model; empty without nulls."""
    module_verdicts: dict[str, dict[str, dict[str, Any]]]
    """The same by module, of the main figures."""
    findings: list[str]
    joint: dict[str, Any] = field(default_factory=dict)
    """|W| against |Δ|: "weight" and "change", lower edges of half octaves (0 first), and by side
    ("observed", "gaussian") the counts, a row a bin of |W|."""
    seconds: float = 0.0
    request: dict[str, Any] = field(default_factory=dict)
    """What was asked for: labels, files with sizes and times, settings; analysis.request.Plan."""

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write_json(path, {"format": FORMAT, **asdict(self)})

    @classmethod
    def load(cls, path: Path) -> Analysis:
        """Read what `save` wrote. Raises `RunFolderError` on a foreign file or another format."""
        value = read_json(path)
        if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
            raise RunFolderError(f"{path} does not hold an analysis of format {FORMAT}")
        try:
            return cls(**value)
        except TypeError as error:
            raise RunFolderError(f"{path} does not hold an analysis ({error})") from error
