"""What the explorations of a study show: geometry, overlaps, settling, and what optimizers saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparseopd.artifacts import RunDir
from sparseopd.comparison.arms import OPD
from sparseopd.comparison.courses import StudyOutcome, read
from sparseopd.comparison.jobs import Overlapping
from sparseopd.comparison.plan import StudyPlan
from sparseopd.comparison.words import optimizer_words
from sparseopd.results import GeometryRow, OverlapRow, SettlingRow, TelemetryRow

SUPPORT = "support"


def geometry(plan: StudyPlan, outcome: StudyOutcome, root: Path) -> list[GeometryRow]:
    """Return the paper's table row of every update that was looked at, and of its nulls."""
    rows = []
    for (name, seed), job in outcome.explored.looks.items():
        found = read(job, root)
        kind = job.run.recipe.objective.kind
        method = kind if name == OPD or kind != plan.recipe.objective.kind else name
        for side, told in found["sides"].items():
            rows.append(
                GeometryRow(
                    method=method,
                    seed=seed,
                    side=side,
                    values=told["values"],
                    spread=told["spread"] if side in ("shuffled", "gaussian") else {},
                    beyond=_beyond(found["verdicts"]) if side == "observed" else {},
                )
            )
    return rows


def overlap_rows(plan: StudyPlan, outcome: StudyOutcome, root: Path) -> list[OverlapRow]:
    """Return the overlaps of supports that the study asks for, and of the seeds."""
    rows = []
    for question, pairs in plan.study.overlaps.items():
        for seed, job in outcome.explored.overlaps[question].items():
            for of, found in _kinds(job, root).items():
                rows += [_overlap(question, pair, of, found, f" (seed {seed})") for pair in pairs]
    if outcome.explored.seeds is not None:
        for of, found in _kinds(outcome.explored.seeds, root).items():
            rows += [_overlap("seeds", (one["first"], one["second"]), of, found) for one in found]
    return rows


def settling_rows(outcome: StudyOutcome, root: Path) -> list[SettlingRow]:
    """Return how the masks of the recipe's own exploration settled."""
    return [
        SettlingRow(seed=seed, **row)
        for seed, job in outcome.explored.settling.items()
        for row in read(job, root)
    ]


def telemetry_rows(outcome: StudyOutcome, root: Path) -> list[TelemetryRow]:
    """Return what the optimizers of full runs saw, where the recipe measures it."""
    rows = []
    for arm in outcome.arms.values():
        if arm.arm.kind != "full":
            continue
        for seed, run in arm.runs.items():
            seen = [
                row["telemetry"]
                for row in RunDir(run.path(root)).read_metrics()
                if row.get("telemetry", {}).keys() & {"cos_m_g", "cv_sqrt_v"}
            ]
            if seen:
                rows.append(
                    TelemetryRow(
                        optimizer=optimizer_words(run.recipe.optimizer),
                        lr=arm.lr,
                        seed=seed,
                        steps=[int(one["step"]) for one in seen],
                        cosine=[one.get("cos_m_g") for one in seen],
                        variation=[one.get("cv_sqrt_v") for one in seen],
                    )
                )
    return rows


def _beyond(verdicts: dict[str, Any]) -> dict[str, str]:
    """Say of each column whether the figure lies above or below what its nulls explain."""
    found = {}
    for column, verdict in verdicts.items():
        if verdict.get("structure"):
            null = verdict.get("gaussian") or verdict.get("shuffled")
            found[column] = "above" if verdict["observed"] > null["mean"] else "below"
    return found


def _kinds(job: Overlapping, root: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the overlaps of supports, and of masks."""
    found = read(job, root)
    return {SUPPORT: found["pairs"], f"top {100 * job.top:g} %": found["masks"]}


def _overlap(
    question: str, pair: tuple[str, str], of: str, found: list[dict[str, Any]], suffix: str = ""
) -> OverlapRow:
    for one in found:
        forth = (one["first"], one["second"]) == tuple(pair)
        if not forth and (one["second"], one["first"]) != tuple(pair):
            continue
        told = one["all"]
        there, back = ("", "_back") if forth else ("_back", "")
        return OverlapRow(
            question=question,
            first=pair[0] + suffix,
            second=pair[1] + suffix,
            coverage=told[f"coverage{there}"],
            coverage_back=told[f"coverage{back}"],
            chance=told[f"chance{there}"],
            chance_back=told[f"chance{back}"],
            null=told[f"null{there}"],
            null_back=told[f"null{back}"],
            jaccard=told["jaccard"],
            of=of,
        )
    raise KeyError(pair)
