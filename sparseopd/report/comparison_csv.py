"""A comparison as CSV files, for spreadsheets and scripts: one behind every figure and table.

    arms.csv           a row an arm: what it is, every figure with its interval, both tests
    seeds.csv          a row an arm and seed
    costs.csv          a row an arm
    trials.csv         a row an arm and learning rate that was tried
    curves.csv         a row a logged step of an arm's first seed
    geometry.csv       the paper's table: a row an update or null of every seed, and the paper's ten
    mask_training.csv  the paper's table of mask training, and its own rows
    optimizers.csv     the paper's table of optimizers, and its own rows
    overlaps.csv       the paper's overlaps beside this comparison's
    settling.csv       how far the mask of fewer steps is the last one
    telemetry.csv      a row a step that an optimizer told of
    settings.csv       every setting and version

Shares are 0…1, but in geometry.csv and in the paper's rows of other tables: those are in percent, as it
gives them. Numbers have every digit that a float64 needs; a figure that does not exist is empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any

from sparseopd.analysis.paper import COLUMNS, PAPER
from sparseopd.analysis.tables import write_csv
from sparseopd.artifacts import Interval
from sparseopd.report.comparison_optimizers import compared_arms, seen, summary
from sparseopd.report.comparison_paper import trained_masks, training_arms
from sparseopd.report.comparison_settings import setting_rows
from sparseopd.report.paper_tables import MASK_TRAINING, OPTIMIZERS, OVERLAPS
from sparseopd.results import ArmResult, Costs, Results, Study, Verdict

PAPERS = "the paper"
"""What stands for the study in rows of the paper's own."""
ENDS = ("mean", "low", "high")
TELEMETRY = (
    *(f"cosine_{part}" for part in ("start", "mean", "least", "end")),
    *(f"variation_{part}" for part in ("start", "mean", "end")),
)
_PLAIN = (
    *("name", "kind", "chosen", "found_on", "method", "optimizer", "density", "k"),
    *("discovery_steps", "steps", "reordered", "lr", "bracketed"),
)
_MEASURED = ("accuracy", "gain", "kept", "kl", "forgetting")
_VERDICTS = ("equivalence", "superiority")
_TESTED = ("against", *(f"difference_{end}" for end in ENDS), "p", "adjusted", "margin", "found")
_COSTS = tuple(field.name for field in fields(Costs))


def write_csvs(results: Results, folder: Path) -> dict[str, bytes]:
    """Write every CSV file that has a row into `folder`, each whole; return their bytes by name.

    Files of these names that this comparison has nothing for are removed. Raises `RunFolderError` where
    one cannot be written.
    """
    makers: dict[str, Callable[[Results], Iterator[Sequence[Any]]]] = {
        "arms.csv": arm_lines,
        "seeds.csv": seed_lines,
        "costs.csv": cost_lines,
        "trials.csv": trial_lines,
        "curves.csv": curve_lines,
        "geometry.csv": geometry_lines,
        "mask_training.csv": training_lines,
        "optimizers.csv": optimizer_lines,
        "overlaps.csv": overlap_lines,
        "settling.csv": settling_lines,
        "telemetry.csv": telemetry_lines,
        "settings.csv": setting_lines,
    }
    files = {}
    for name, make in makers.items():
        path, lines = folder / name, list(make(results))
        # The paper's own rows alone would say nothing of this comparison.
        if any(line[0] != PAPERS for line in lines[1:]):
            files[name] = write_csv(path, lines).read_bytes()
        else:
            path.unlink(missing_ok=True)
    return files


def arm_lines(results: Results) -> Iterator[Sequence[Any]]:
    """Yield a line an arm; pass@k has columns for every k of any arm."""
    ks = sorted({k for _, arm in _arms(results) for k in arm.pass_at})
    measured = [
        f"{name}_{end}" for name in (*_MEASURED, *(f"pass_at_{k}" for k in ks)) for end in ENDS
    ]
    tested = [f"{name}_{part}" for name in _VERDICTS for part in _TESTED]
    yield ("study", *_PLAIN, *measured, *tested, *_COSTS)
    for study, arm in _arms(results):
        intervals = [getattr(arm, name) for name in _MEASURED] + [arm.pass_at.get(k) for k in ks]
        yield (
            study.name,
            *(getattr(arm, name) for name in _PLAIN),
            *(end for interval in intervals for end in _ends(interval)),
            *(part for name in _VERDICTS for part in _tested(getattr(arm, name))),
            *(getattr(arm.costs, name) for name in _COSTS),
        )


def seed_lines(results: Results) -> Iterator[Sequence[Any]]:
    """Yield a line an arm and seed."""
    plain = ("seed", "accuracy", "kl", "forgetting", "truncated", "mean_tokens", "seconds")
    seeds = [(study, arm, one) for study, arm in _arms(results) for one in arm.seeds]
    ks = sorted({k for *_, one in seeds for k in one.pass_at})
    near = sorted({key for *_, one in seeds for key in one.agreement})
    heads = (*(f"pass_at_{k}" for k in ks), *(f"agreement_{key}" for key in near))
    yield ("study", "arm", *plain, *heads)
    for study, arm, one in seeds:
        more = (*(one.pass_at.get(k) for k in ks), *(one.agreement.get(key) for key in near))
        yield (study.name, arm.name, *(getattr(one, name) for name in plain), *more)


def cost_lines(results: Results) -> Iterator[Sequence[Any]]:
    """Yield a line an arm whose costs are known."""
    yield ("study", "arm", *_COSTS)
    for study, arm in _arms(results):
        values = [getattr(arm.costs, name) for name in _COSTS]
        if any(value is not None for value in values):
            yield (study.name, arm.name, *values)


def trial_lines(results: Results) -> Iterator[Sequence[Any]]:
    """Yield a line a learning rate that was tried, on the validation split."""
    yield ("study", "arm", "optimizer", "lr", "accuracy", "kl", "best")
    for study, arm in _arms(results):
        for one in arm.trials:
            best = one.lr == arm.lr
            yield (study.name, arm.name, arm.optimizer, one.lr, one.accuracy, one.kl, best)


def curve_lines(results: Results) -> Iterator[Sequence[Any]]:
    """Yield a line a logged step, with every figure that was logged."""
    rows = [(study, arm, row) for study, arm in _arms(results) for row in arm.curve]
    names = list(dict.fromkeys(name for *_, row in rows for name in row))
    yield ("study", "arm", *names)
    for study, arm, row in rows:
        yield (study.name, arm.name, *(row.get(name) for name in names))


def geometry_lines(results: Results) -> Iterator[Sequence[Any]]:
    """Yield a line an update or null, in percent but for the stable rank; then the paper's rows."""
    keys = [column.key for column in COLUMNS]
    kinds = ("spread", "beyond")
    more = [f"{key}_{kind}" for kind in kinds for key in keys]
    yield ("study", "method", "seed", "side", *keys, *more)
    for study in results.studies:
        for row in study.geometry:
            beside = [getattr(row, kind).get(key) for kind in kinds for key in keys]
            values = (row.values.get(key) for key in keys)
            yield (study.name, row.method, row.seed, row.side, *values, *beside)
    for row in PAPER:
        yield (PAPERS, row.name, None, row.side, *row.values, *[None] * len(more))


def training_lines(results: Results) -> Iterator[Sequence[Any]]:
    """Yield a line a discovered mask and its counterparts; then the paper's, in percent."""
    parts = ("full", "own", "other", "random", "random_other")
    heads = [f"{part}_{end}" for part in parts for end in ("arm", "density", *ENDS)]
    yield ("study", "density", "discovery_steps", *heads)
    for study in results.studies:
        for arm in trained_masks(study):
            cells = (cell for one in training_arms(study, arm) for cell in _training(one))
            yield (study.name, arm.density, arm.discovery_steps, *cells)
    for row in MASK_TRAINING:
        run = f"{row.run}: {row.measure}"
        densities = {"own": row.own_density, "other": row.other_density}
        cells = ((run, densities.get(part), getattr(row, part), None, None) for part in parts)
        yield (PAPERS, row.own_density, None, *chain.from_iterable(cells))


def optimizer_lines(results: Results) -> Iterator[Sequence[Any]]:
    """Yield a line an arm whose optimizers are compared; then the paper's, in percent."""
    yield ("study", "arm", "optimizer", "lr", *(f"accuracy_{end}" for end in ENDS), *TELEMETRY)
    for study in results.studies:
        for arm in compared_arms(study):
            told = summary(seen(study, arm.optimizer, arm.lr))
            yield (study.name, arm.name, arm.optimizer, arm.lr, *_ends(arm.accuracy), *told)
    for row in OPTIMIZERS:
        told = (*(row.cosine or [None] * 4), *(row.variation or [None] * 3))
        for name, accuracy in (("peak", row.peak), ("final", row.final)):
            yield (PAPERS, name, row.optimizer, row.lr, accuracy, None, None, *told)


def overlap_lines(results: Results) -> Iterator[Sequence[Any]]:
    """Yield a line a pair of supports; then the paper's, in percent."""
    names = (
        *("question", "first", "second", "of", "chance", "null", "coverage"),
        *("chance_back", "null_back", "coverage_back", "jaccard"),
    )
    yield ("study", *names)
    for study in results.studies:
        for row in study.overlaps:
            yield (study.name, *(getattr(row, name) for name in names))
    for row in OVERLAPS:
        there, back = (row.chance, None, row.observed), (row.chance_back, None, row.observed_back)
        yield (PAPERS, row.question, row.name, None, "support", *there, *back, None)


def settling_lines(results: Results) -> Iterator[Sequence[Any]]:
    """Yield a line a seed, number of steps and density."""
    names = ("seed", "steps", "density", "jaccard", "coverage", "null")
    yield ("study", *names)
    for study in results.studies:
        for row in study.settling:
            yield (study.name, *(getattr(row, name) for name in names))


def telemetry_lines(results: Results) -> Iterator[Sequence[Any]]:
    """Yield a line a step of every run that told."""
    yield ("study", "optimizer", "lr", "seed", "step", "cosine", "variation")
    for study in results.studies:
        for row in study.telemetry:
            for step in zip(row.steps, row.cosine, row.variation, strict=False):
                yield (study.name, row.optimizer, row.lr, row.seed, *step)


def setting_lines(results: Results) -> Iterator[Sequence[Any]]:
    """Yield a line a setting of the comparison or of a study, and a version."""
    yield ("of", "name", "value")
    yield ("comparison", "command", results.command)
    for name, value in setting_rows(results.settings):
        yield ("comparison", name, value)
    for study in results.studies:
        for name, value in setting_rows(study.settings):
            yield (study.name, name, value)
    for name, value in sorted(results.versions.items()):
        yield ("versions", name, value)


def _arms(results: Results) -> list[tuple[Study, ArmResult]]:
    return [(study, arm) for study in results.studies for arm in study.arms]


def _ends(interval: Interval | None) -> list[float | None]:
    return [None] * 3 if interval is None else [interval.mean, interval.low, interval.high]


def _tested(verdict: Verdict | None) -> list[Any]:
    if verdict is None:
        return [None] * len(_TESTED)
    one = verdict
    return [one.against, *_ends(one.difference), one.p, one.adjusted, one.margin, one.found]


def _training(arm: ArmResult | None) -> list[Any]:
    if arm is None:
        return [None] * 5
    return [arm.name, arm.density, *_ends(arm.accuracy)]
