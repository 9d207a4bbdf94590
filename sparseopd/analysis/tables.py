"""An analysis as CSV files, for spreadsheets and scripts.

    whole.csv      a row a figure: observed, before rounding, both nulls, and what they are judged
    groups.csv     the same by block, module and layer; what modules are judged by their main figures
    tensors.csv    a row a matrix or vector, a column a figure; nulls as means over the draws
    spectra.csv    σ_i/σ₁ of every matrix at some thirty ranks (`measure.CURVE`)
    joint.csv      how many coordinates lie in each half octave of |W| and of |Δ|
    paper_row.csv  the paper's table row of the update, of its nulls, and the paper's ten (paper.py)

Numbers have every digit that a float64 needs; a figure that does not exist is empty.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sparseopd.analysis.measure import CURVE
from sparseopd.analysis.nulls import KINDS
from sparseopd.analysis.paper import COLUMNS, PAPER, PaperRow, paper_rows
from sparseopd.analysis.result import Analysis
from sparseopd.analysis.verdict import Verdict, family_of
from sparseopd.artifacts import written_whole

Lines = Iterable[Sequence[Any]]
"""The heading, then the rows."""

SIDES = ("observed", "master", *(f"{kind}_{part}" for kind in KINDS for part in ("mean", "sd")))
JUDGED = (*(f"{kind}_{part}" for kind in KINDS for part in ("z", "p", "differs")), "structure")
"""Of the verdict: z is the joint deviate, p is corrected for all that is judged."""
PART = ("name", "layer", "module", "block", "shape", "numel", "compared")


def write_tables(analysis: Analysis, folder: Path) -> list[Path]:
    """Write every table that the module's head lists into `folder`, each whole; return their paths.

    Raises `RunFolderError` where one cannot be written.
    """
    tables = {
        "whole.csv": whole_lines(analysis),
        "groups.csv": group_lines(analysis),
        "tensors.csv": tensor_lines(analysis),
        "spectra.csv": spectrum_lines(analysis),
        "joint.csv": joint_lines(analysis),
        "paper_row.csv": paper_lines(analysis),
    }
    return [write_csv(folder / name, lines) for name, lines in tables.items()]


def write_csv(path: Path, lines: Lines) -> Path:
    """Write lines as CSV, whole or not at all; None is empty, a truth value true or false."""
    with (
        written_whole(path) as temporary,
        # A path given on the command line may hold bytes that are no UTF-8.
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([_cell(value) for value in line] for line in lines)
    return path


def whole_lines(analysis: Analysis) -> Iterator[Sequence[Any]]:
    """Yield a line a figure of the whole model."""
    yield ("figure", "family", "compared", *SIDES, *JUDGED)
    compared = "/".join(analysis.dtypes["compared"])
    verdicts = {seen["whole"]: seen for seen in analysis.verdicts.values()}
    for figure in _figures(analysis.whole):
        judged = _judged(verdicts.get(figure))
        yield (figure, _family(figure), compared, *_sides(analysis.whole, figure), *judged)


def group_lines(analysis: Analysis) -> Iterator[Sequence[Any]]:
    """Yield a line a figure of every block, module and layer."""
    yield ("kind", "name", "figure", *SIDES, *JUDGED)
    for kind, groups in analysis.groups.items():
        for name, sides in groups.items():
            of_module = analysis.module_verdicts.get(name, {}) if kind == "module" else {}
            verdicts = {seen["whole"]: seen for seen in of_module.values()}
            for figure in _figures(sides):
                judged = _judged(verdicts.get(figure))
                yield (kind, name, figure, *_sides(sides, figure), *judged)


def tensor_lines(analysis: Analysis) -> Iterator[Sequence[Any]]:
    """Yield a line a matrix or vector: its figures, those before rounding as master.…, null means."""
    rows = analysis.tensors
    sides = [side for side in ("observed", "master", *KINDS) if any(row.get(side) for row in rows)]
    columns = [
        (side, figure)
        for side in sides
        for figure in dict.fromkeys(name for row in rows for name in row.get(side, ()))
    ]
    names = [figure if side == "observed" else f"{side}.{figure}" for side, figure in columns]
    yield (*PART, "stored_base", "stored_tuned", "compared", *names)
    for row in rows:
        shape = "x".join(map(str, row["shape"]))
        stored = (row["stored"]["base"], row["stored"]["tuned"], row["compared"])
        figures = (_mean(row.get(side, {}).get(figure)) for side, figure in columns)
        yield (*({**row, "shape": shape}[key] for key in PART), *stored, *figures)


def spectrum_lines(analysis: Analysis) -> Iterator[Sequence[Any]]:
    """Yield a line a matrix and rank: i, i as a share of min(d), then σ_i/σ₁ of every side."""
    sides = ("observed", "master", *KINDS)
    yield ("name", "layer", "module", "block", "rank", "share", *sides)
    for row in analysis.tensors:
        curves = {side: row["curve"].get(side) or [None] * len(CURVE) for side in sides}
        if len(row["shape"]) == 2:
            size = min(row["shape"])
            # Of a small matrix, several shares come to the same rank.
            places = {max(1, int(share * size + 0.5)): at for at, share in enumerate(CURVE)}
            for rank, place in places.items():
                values = (curves[side][place] for side in sides)
                yield (*(row[key] for key in PART[:4]), rank, rank / size, *values)


def joint_lines(analysis: Analysis) -> Iterator[Sequence[Any]]:
    """Yield a line a half octave of |W| and of |Δ|, by their lower edges, that any side uses."""
    joint, sides = analysis.joint, ("observed", "gaussian")
    yield ("weight", "change", *sides)
    for row, weight in enumerate(joint.get("weight", ())):
        for column, change in enumerate(joint["change"]):
            counts = [joint[side][row][column] if side in joint else None for side in sides]
            if any(counts):
                yield (weight, change, *counts)


def paper_lines(analysis: Analysis) -> Iterator[Sequence[Any]]:
    """Yield the update's rows, then the paper's own; in percent, except the stable rank."""
    yield ("run", "side", *(column.key for column in COLUMNS))
    rows: list[PaperRow] = [*paper_rows(analysis), *PAPER]
    for row in rows:
        yield (row.name, row.side, *row.values)


def _figures(sides: dict[str, Any]) -> list[str]:
    """Every figure of any side, and the counts that stand beside them."""
    known = (name for side in ("observed", "master", *KINDS) for name in sides[side] or ())
    return ["numel", "matrices", *dict.fromkeys(known)]


def _sides(sides: dict[str, Any], figure: str) -> list[Any]:
    if figure in ("numel", "matrices"):
        return [sides[figure], *[None] * (len(SIDES) - 1)]
    nulls = [sides[kind].get(figure, {}) for kind in KINDS]
    values = [null.get(part) for null in nulls for part in ("mean", "sd")]
    return [sides["observed"].get(figure), (sides["master"] or {}).get(figure), *values]


def _judged(seen: Verdict | None) -> list[Any]:
    if seen is None:
        return [None] * len(JUDGED)
    parts = [seen[kind][part] for kind in KINDS for part in ("z", "p", "differs")]
    return [*parts, seen["structure"]]


def _family(figure: str) -> str | None:
    return family_of(figure.removeprefix("median_").removeprefix("mean_"))


def _mean(value: Any) -> float | None:
    """Nulls hold a list with one value a draw."""
    if not isinstance(value, list):
        return value
    return None if not value or None in value else sum(value) / len(value)


def _cell(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value
