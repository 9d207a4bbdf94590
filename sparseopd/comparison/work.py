"""Do one job of a comparison and write its result, whole or not at all. Runs in a worker process."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import replace
from functools import singledispatch
from pathlib import Path
from typing import Any

import torch

from sparseopd.adapter_files.extract import extract
from sparseopd.analysis.agreement import agreement
from sparseopd.analysis.analyze import analyze
from sparseopd.analysis.comparison import compare_supports, figures
from sparseopd.analysis.paper import COLUMNS, paper_rows
from sparseopd.analysis.settings import AnalysisSettings
from sparseopd.artifacts import Provenance, RunDir, read_json, write_json
from sparseopd.comparison.jobs import (
    FAILED,
    Agreeing,
    Choosing,
    Job,
    Looking,
    Measuring,
    Overlapping,
    Pricing,
    Settling,
    Training,
)
from sparseopd.comparison.measuring import forget_models, measured
from sparseopd.distill import resume, train
from sparseopd.distill.resume import find_stopped
from sparseopd.errors import (
    MaskLeakError,
    RequestError,
    RunFolderError,
    SparseOPDError,
    TrainingError,
)
from sparseopd.feasibility import check_recipe
from sparseopd.feasibility.request import Request
from sparseopd.masks import Mask, select
from sparseopd.masks.overlap import overlaps, together
from sparseopd.pairs import open_tensors
from sparseopd.pairs.locate import weights_folder
from sparseopd.selection import build

COMPARED = "bfloat16"
"""What updates are rounded to before they are looked at, as the paper's checkpoints are."""


def perform(job: Job, root: Path) -> float:
    """Do a job unless its result is there; return the seconds it took."""
    started = time.monotonic()
    if not job.is_done(root):
        job.path(root).parent.mkdir(parents=True, exist_ok=True)
        _do(job, root)
    return time.monotonic() - started


@singledispatch
def _do(job: Job, root: Path) -> None:
    raise TypeError(f"nobody knows how to do a {type(job).__name__}")


@_do.register
def _train(job: Training, root: Path) -> None:
    """Train, or go on with a run that was stopped; one that kept no state starts again."""
    folder = job.path(root)
    if torch.cuda.is_available():
        forget_models()
    try:
        if _goes_on(folder):
            resume(folder)
            return
        shutil.rmtree(folder, ignore_errors=True)
        mask = None if job.mask is None else Mask.load(job.mask.path(root))
        train(job.recipe, folder, mask=mask, name=job.label)
    except MaskLeakError:
        raise
    except TrainingError as error:  # a rate that is too large is a finding, not the end
        write_json(folder / FAILED, {"failed": str(error)})


def _goes_on(folder: Path) -> bool:
    """Whether a run that was stopped kept a state."""
    try:
        find_stopped(RunDir(folder), "train")
    except RunFolderError:
        return False
    return True


def _ended(job: Training, root: Path) -> RunDir:
    """Return a run that others look at. Raises `SparseOPDError` if it failed."""
    failed = job.path(root) / FAILED
    if failed.exists():
        raise SparseOPDError(
            f"{job.label} failed, and masks or figures need it: {read_json(failed)['failed']}"
        )
    return RunDir(job.path(root))


@_do.register
def _choose(job: Choosing, root: Path) -> None:
    tuned = None
    if job.run is not None:
        run = _ended(job.run, root)
        last = job.steps in (None, job.run.recipe.train.steps)
        tuned = str(run.checkpoint if last else run.kept_weights(job.steps or 0))
    path = job.path(root)
    temporary = path.with_name(f".{path.name}.part")
    select(
        str(weights_folder(job.student, job.revision)),
        tuned,
        selection=build(**job.selection),
        like=None if job.like is None else Mask.load(job.like.path(root)),
        seed=job.seed,
        output=temporary,
        # The run's name and not its place, so that the file is the same in any folder.
        provenance=Provenance(
            base=job.student,
            tuned=job.run.key if job.run else "",
            steps=job.steps,
            recipe_hash=job.hash,
        ),
    )
    temporary.replace(path)


@_do.register
def _measure(job: Measuring, root: Path) -> None:
    if job.run is not None and (job.run.path(root) / FAILED).exists():
        write_json(job.path(root), read_json(job.run.path(root) / FAILED))
        return
    try:
        write_json(job.path(root), measured(job, root))
    except RequestError:
        raise
    except SparseOPDError as error:
        write_json(job.path(root), {"failed": str(error)})


@_do.register
def _agree(job: Agreeing, root: Path) -> None:
    runs = [RunDir(run.path(root)).checkpoint for run in (job.run, job.reference)]
    found = {}
    if all(path.is_dir() for path in runs):
        own, other = (open_tensors(str(path)) for path in runs)
        found = agreement(own, other) or {}
    write_json(job.path(root), found)


@_do.register
def _look(job: Looking, root: Path) -> None:
    found = analyze(
        _source(job.run),
        str(_ended(job.run, root).checkpoint),
        settings=AnalysisSettings(dtype=COMPARED, seed=job.run.recipe.seed),
    )
    columns = [column.key for column in COLUMNS]
    sides = {
        row.side: {
            "values": dict(zip(columns, row.values, strict=True)),
            "spread": dict(zip(columns, row.spread, strict=True)),
        }
        for row in paper_rows(found)
    }
    by_figure = {verdict["whole"]: verdict for verdict in found.verdicts.values()}
    verdicts = {
        column.key: by_figure[column.figure] for column in COLUMNS if column.figure in by_figure
    }
    write_json(
        job.path(root),
        {"sides": sides, "verdicts": verdicts, "findings": found.findings, "dtypes": found.dtypes},
    )


@_do.register
def _overlap(job: Overlapping, root: Path) -> None:
    first = next(iter(job.runs.values()))
    found = compare_supports(
        _source(first),
        {name: str(_ended(run, root).checkpoint) for name, run in job.runs.items()},
        dtype=COMPARED,
    )
    write_json(job.path(root), {**found.as_json(), "masks": _mask_overlaps(job, root)})


def _mask_overlaps(job: Overlapping, root: Path) -> list[dict[str, Any]]:
    """Compare the top-k masks of the updates, every two of them."""
    names = list(job.runs)
    base = open_tensors(_source(job.runs[names[0]]))
    with tempfile.TemporaryDirectory(prefix=".masks-", dir=root) as folder:
        masks = [
            select(
                base,
                str(_ended(run, root).checkpoint),
                selection=build(selector="topk", density=job.top),
                output=Path(folder) / f"{place}.safetensors",
            )
            for place, run in enumerate(job.runs.values())
        ]
        found = overlaps(masks, base)
    return [
        {"first": names[one], "second": names[two], "all": figures(together(rows))}
        for (one, two), rows in found.items()
    ]


@_do.register
def _settle(job: Settling, root: Path) -> None:
    base = open_tensors(job.student)
    steps = sorted(job.masks)
    last = Mask.load(job.masks[steps[-1]].path(root))
    rows = []
    for step in steps[:-1]:
        overlap = together(overlaps([Mask.load(job.masks[step].path(root)), last], base)[0, 1])
        rows.append(
            {
                "steps": step,
                "density": last.density(),
                "jaccard": overlap.jaccard,
                "coverage": overlap.coverage,
                "null": overlap.null,
            }
        )
    write_json(job.path(root), rows)


@_do.register
def _price(job: Pricing, root: Path) -> None:
    """Count what was trained, what training holds at its peak, and the bytes that ship it."""
    run, recipe = RunDir(job.run.path(root)), job.run.recipe
    mask = Mask.load(run.mask) if run.mask.exists() else None
    student = open_tensors(_source(job.run))
    total = sum(student.shape(name).numel() for name in student.keys())
    adapter = (run.read_facts().adapter or {}) if run.facts.exists() else {}
    whole = total if recipe.train.peft is None else None
    trainable = mask.count() if mask is not None else adapter.get("k", whole)
    memory = None
    if not adapter:
        report = check_recipe(Request(recipe=recipe, mask=mask, output=root))
        memory = None if report.memory is None else report.memory.peak
    price = {
        "trainable": trainable,
        "total": total,
        "peak_bytes": memory,
        "shipped_bytes": _shipped(run, mask, job.path(root)) if run.facts.exists() else None,
    }
    write_json(job.path(root), price)


def _shipped(run: RunDir, mask: Mask | None, beside: Path) -> int:
    """Return the bytes of weights that carry what a run learned: an adapter's, or a checkpoint's."""
    if (run.path / "adapter").is_dir():
        return _bytes(run.path / "adapter")
    if mask is None:
        return _bytes(run.checkpoint)
    folder = beside.with_name(f".{beside.stem}.part")
    shutil.rmtree(folder, ignore_errors=True)
    # Named by the run and not by its place, so that the size is the same in any folder.
    known = replace(mask.provenance, tuned=run.path.name)
    extract(mask.provenance.base, str(run.checkpoint), folder, mask=mask, provenance=known)
    shipped = _bytes(folder)
    shutil.rmtree(folder)
    return shipped


def _source(run: Training) -> str:
    """Return the folder of the weights a run began from."""
    return str(weights_folder(run.recipe.student.path, run.recipe.student.revision))


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
