"""How far the supports of several updates of one base overlap, and how far the results agree.

found = compare_supports("base", {"opd": "run/checkpoint", "rl": "other"})
found.overlap("opd", "rl").coverage    |A∩B| / |A|, beside .chance and .null
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sparseopd.analysis.agreement import agreements
from sparseopd.analysis.supports import THRESHOLD, Rounded, compared_dtypes, supports
from sparseopd.artifacts import Progress
from sparseopd.errors import AnalysisError
from sparseopd.masks.overlap import Overlap, by_block, by_layer, overlaps, together
from sparseopd.pairs.tensors import Source, open_tensors
from sparseopd.ranges import Dtype

_DERIVED = ("jaccard", "coverage", "coverage_back", "chance", "null", "margin", "deviations")


@dataclass(frozen=True, kw_only=True)
class Support:
    """The coordinates an update moved, counted."""

    label: str
    source: str
    """The tuned checkpoint."""
    count: int
    numel: int

    @property
    def density(self) -> float:
        """Return the share of coordinates that moved."""
        return self.count / self.numel


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two updates of one base."""

    first: str
    second: str
    overlap: Overlap
    """Of their supports; shares are None where one is empty."""
    blocks: dict[str, Overlap] = field(default_factory=dict)
    layers: dict[int, Overlap] = field(default_factory=dict)
    agreement: dict[str, float]
    """Share of coordinates of the two checkpoints within 1e-5 and 1e-4, keyed "1e-05", "1e-04"."""


@dataclass(frozen=True, kw_only=True)
class Comparisons:
    """Several updates of one base, each set beside every other."""

    base: str
    threshold: float
    compared: list[str]
    """The dtypes that weights were rounded to, before float32 subtracted them."""
    supports: list[Support]
    pairs: list[Pair]
    """Every two of them, in order."""

    def overlap(self, first: str, second: str) -> Overlap:
        """Return the overlap of two supports, by their labels, seen from the first: A in B."""
        for pair in self.pairs:
            if (pair.first, pair.second) == (first, second):
                return pair.overlap
            if (pair.second, pair.first) == (first, second):
                return turned(pair.overlap)
        raise KeyError((first, second))

    def agreement(self, first: str, second: str) -> dict[str, float]:
        """Return the agreement of two checkpoints, by their labels in any order."""
        wanted = {first, second}
        return next(pair.agreement for pair in self.pairs if {pair.first, pair.second} == wanted)

    def as_json(self) -> dict[str, Any]:
        """Return what comparison.json holds."""
        return {
            "base": self.base,
            "threshold": self.threshold,
            "compared": self.compared,
            "subtracted": "float32",
            "supports": [{**asdict(one), "density": one.density} for one in self.supports],
            "pairs": [
                {
                    "first": pair.first,
                    "second": pair.second,
                    "all": figures(pair.overlap),
                    "by_block": {name: figures(one) for name, one in pair.blocks.items()},
                    "by_layer": {str(name): figures(one) for name, one in pair.layers.items()},
                    "agreement": pair.agreement,
                }
                for pair in self.pairs
            ],
        }


def compare_supports(
    base: Source,
    tuned: Mapping[str, Source],
    *,
    threshold: float = THRESHOLD,
    dtype: Dtype | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Comparisons:
    """Compare every two updates of `base`: their supports beside chance and null, and the results.

    Args:
        base: checkpoint folder, hub id, `bundled:…`, or a model in memory.
        tuned: its siblings after training, by label; two or more.
        threshold: coordinates that moved more belong to a support.
        dtype: what weights are rounded to before they are subtracted. None: the narrowest of the
            dtypes that base and tuned checkpoints are stored in, tensor by tensor.
        include, exclude: tensors to look at, blocks or shell patterns (masks.scope); all by default.
        folder: where supports lie in files while they are compared; the system's temporary folder by
            default.
        progress: called with bytes read.

    Raises `AnalysisError` for fewer than two, or one that is no sibling; `MaskError` where a weight is
    not a number.
    """
    if len(tuned) < 2:
        raise AnalysisError(
            f"{len(tuned)} tuned checkpoint was given: an overlap needs two or more of one base"
        )
    before, after = open_tensors(base), {name: open_tensors(one) for name, one in tuned.items()}
    dtypes = compared_dtypes(before, list(after.values()), dtype, include, exclude)
    labels = list(after)
    with supports(before, after, dtypes, threshold, folder, progress) as masks:
        rows = overlaps(list(masks.values()), Rounded(before, dtypes))
        counted = [
            Support(label=label, source=after[label].label, count=mask.count(), numel=mask.numel())
            for label, mask in masks.items()
        ]
    agreed = agreements(list(after.values()), list(dtypes), progress)
    pairs = [
        Pair(
            first=labels[one],
            second=labels[two],
            overlap=together(found),
            blocks=by_block(found),
            layers=by_layer(found),
            agreement=agreed[one, two],
        )
        for (one, two), found in rows.items()
    ]
    return Comparisons(
        base=before.label,
        threshold=threshold,
        compared=sorted({str(one).removeprefix("torch.") for one in dtypes.values()}),
        supports=counted,
        pairs=pairs,
    )


def turned(overlap: Overlap) -> Overlap:
    """Return the overlap seen from the second mask; the null of |A∩B| is the same either way."""
    return replace(overlap, first=overlap.second, second=overlap.first)


def figures(overlap: Overlap) -> dict[str, Any]:
    """Return counts and shares of an overlap, as comparison.json holds them."""
    back = turned(overlap)
    return {
        **asdict(overlap),
        **{name: getattr(overlap, name) for name in _DERIVED},
        "chance_back": back.chance,
        "null_back": back.null,
    }
