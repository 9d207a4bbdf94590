"""The update of one run over time: every snapshot it kept, and its last checkpoint.

sparseopd train RECIPE --snapshots 5,10,25 -o RUN
rows = course(RunDir("RUN"))           one a step
write_course(rows, folder)             course.json, course.csv
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparseopd import recipe as recipes
from sparseopd.analysis.analyze import analyze
from sparseopd.analysis.measure import Sides
from sparseopd.analysis.request import plan
from sparseopd.analysis.result import Analysis
from sparseopd.analysis.settings import AnalysisSettings
from sparseopd.analysis.supports import Rounded, compared_dtypes, supports
from sparseopd.analysis.tables import write_csv
from sparseopd.artifacts import Progress, RunDir, labelled, write_json
from sparseopd.errors import RunFolderError
from sparseopd.masks.overlap import Overlap, overlaps, together
from sparseopd.pairs.folder import FolderTensors
from sparseopd.pairs.locate import weights_folder
from sparseopd.pairs.tensors import Tensors

FIGURES = (
    "share_zero",
    "share_le_1e-5",
    "share_le_1e-4",
    "relative_norm",
    "coordinate_energy_top_1pct_pooled",
    "median_stable_rank",
    "median_svd_energy_top16",
    "median_entropy_effective_rank",
    "median_projection_energy_10pct",
)
"""Figures of the whole model that a row has, beside every median coverage."""
COVERAGE = "median_coverage_"
Row = dict[str, Any]


def course(
    run: RunDir,
    *,
    settings: AnalysisSettings | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> list[Row]:
    """Measure the update after every step that the run kept, against the student it began from.

    A row has "step", "compared" (the dtypes, joined by /), the whole model's figures named in `FIGURES`
    and `COVERAGE`, and of the support {|Δ| > 1e-5}: "support_density", and its Jaccard index with those
    of the row before and of the last, "support_jaccard_before" and "support_jaccard_last", each with the
    |W|-matched null of masks.overlap under the name that ends in _null. A figure that does not exist is
    None. A run that has not ended has its snapshots so far.

    Args:
        run: a run of `train`, with `train.snapshots`.
        settings: dtype, device, scope; no nulls are drawn.
        folder: where each step's analysis.json is kept, as step-N.json, so that an interrupted course
            goes on; made if it is missing. One of other files or settings is made anew.
        progress: called with what is done of each step.

    Raises `RunFolderError` if the run kept nothing on the way, otherwise as `analyze`.
    """
    settings = replace(settings or AnalysisSettings(), draws=0)
    kept = _checkpoints(run)
    base = student_of(run, next(iter(kept.values())))
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    rows = [
        _row(
            step, _analysis(base, tuned, step, settings, folder, labelled(progress, f"step {step}"))
        )
        for step, tuned in kept.items()
    ]
    found = _support_figures(base, kept, settings, folder, progress)
    return [row | more for row, more in zip(rows, found, strict=True)]


def student_of(run: RunDir, tuned: Tensors) -> Tensors:
    """Open the student that a run began from, in the recipe's revision.

    Tensors that `tuned`, a checkpoint of the run, lacks are left out: its model class does not use them.
    """
    student = recipes.load(run.recipe).student
    folder = weights_folder(student.path, student.revision)
    return FolderTensors(folder, label=student.path, only=set(tuned.keys()))


def write_course(rows: Sequence[Row], folder: Path) -> None:
    """Write course.json and course.csv, each whole; in the table, a figure that is None is empty."""
    write_json(folder / "course.json", list(rows))
    names = list(dict.fromkeys(name for row in rows for name in row))
    write_csv(folder / "course.csv", [names, *([row.get(name) for name in names] for row in rows)])


def _checkpoints(run: RunDir) -> dict[int, Tensors]:
    """Open what the run kept, by step; the last checkpoint counts once the run has ended."""
    folders: dict[int, Path] = {}
    for folder in run.snapshots.glob("step-*"):
        if found := re.fullmatch(r"step-(\d+)", folder.name):
            folders[int(found[1])] = folder
    if not folders:
        raise RunFolderError(
            f"{run.path} kept no weights on the way: train with --snapshots 5,10,25 (train.snapshots in "
            "a recipe) to see its update over time"
        )
    if run.facts.is_file() and run.checkpoint.is_dir():
        folders[run.read_facts().steps] = run.checkpoint
    return {step: FolderTensors(folders[step]) for step in sorted(folders)}


def _analysis(
    base: Tensors,
    tuned: Tensors,
    step: int,
    settings: AnalysisSettings,
    folder: Path | None,
    progress: Progress | None,
) -> Analysis:
    """Analyse one step, or read what an interrupted course found of it."""
    file = None if folder is None else folder / f"step-{step}.json"
    if file is not None and file.is_file():
        known = Analysis.load(file)
        if known.request == plan(Sides(base, tuned), settings).request:
            return known
    found = analyze(base, tuned, settings=settings, folder=folder, progress=progress)
    if file is not None:
        found.save(file)
    return found


def _row(step: int, found: Analysis) -> Row:
    figures = found.whole["observed"]
    names = [*FIGURES, *(name for name in figures if name.startswith(COVERAGE))]
    compared = "/".join(found.dtypes["compared"])
    return {"step": step, "compared": compared, **{name: figures.get(name) for name in names}}


def _support_figures(
    base: Tensors,
    kept: Mapping[int, Tensors],
    settings: AnalysisSettings,
    folder: Path | None,
    progress: Progress | None,
) -> list[Row]:
    after = {f"step {step}": tensors for step, tensors in kept.items()}
    dtypes = compared_dtypes(
        base, list(after.values()), settings.dtype, settings.include, settings.exclude
    )
    with supports(base, after, dtypes, folder=folder, progress=progress) as found:
        masks = list(found.values())
        rows = overlaps(masks, Rounded(base, dtypes)) if len(masks) > 1 else {}
        densities = [mask.density() for mask in masks]
    pairs = {pair: together(parts) for pair, parts in rows.items()}
    last = len(densities) - 1
    return [
        {
            "support_density": density,
            **_jaccard("support_jaccard_before", pairs.get((place - 1, place))),
            **_jaccard("support_jaccard_last", pairs.get((place, last))),
            **({"support_jaccard_last": 1.0} if place == last and density else {}),
        }
        for place, density in enumerate(densities)
    ]


def _jaccard(name: str, overlap: Overlap | None) -> Row:
    """Return the index of two supports and, under its name with _null, what the null expects of it."""
    if overlap is None or overlap.expected is None:
        return {name: None, f"{name}_null": None}
    union = overlap.first + overlap.second - overlap.expected
    return {name: overlap.jaccard, f"{name}_null": overlap.expected / union if union else None}
