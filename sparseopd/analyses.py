"""What `sparseopd analyze` does: find the checkpoints, analyse each, compare them, write it all down.

FOLDER/analysis.json       one update: everything measured (analysis.Analysis)
FOLDER/*.csv               the same as tables
FOLDER/NAME/…              of several updates, each one's own
FOLDER/comparison.json     of several updates: how far their supports overlap, how far they agree
FOLDER/course.json, .csv   of one run with snapshots: its update over time
FOLDER/analysis.html       all of it, to read; written last
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sparseopd import recipe as recipes
from sparseopd.analysis import Analysis, AnalysisSettings, analyze
from sparseopd.analysis.comparison import Comparisons, compare_supports
from sparseopd.analysis.course import course, student_of, write_course
from sparseopd.analysis.measure import Sides
from sparseopd.analysis.request import plan
from sparseopd.analysis.sums import PARTIAL
from sparseopd.analysis.tables import write_tables
from sparseopd.artifacts import Progress, RunDir, labelled, write_json
from sparseopd.errors import RequestError, RunFolderError
from sparseopd.pairs.locate import checkpoint_of
from sparseopd.pairs.tensors import Source, Tensors, open_tensors
from sparseopd.report import write_analysis
from sparseopd.report.course_figure import draw_course
from sparseopd.report.support_figure import draw_supports

RESULT = "analysis.json"
PAGE = "analysis.html"


@dataclass(frozen=True)
class Tuned:
    """One of the updates to look at."""

    name: str
    """What tables call it."""
    path: str
    """Its checkpoint."""
    run: RunDir | None = None
    """The run that made it, if it is one's and its student is the base."""


@dataclass(frozen=True)
class Request:
    """The checkpoints to compare."""

    base: Source
    tuned: list[Tuned]


@dataclass(frozen=True)
class Outcome:
    """All that was found."""

    analyses: list[Analysis]
    comparisons: Comparisons | None = None
    course: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints: `Analysis` fields of each, the comparison, the course."""
        return {
            "analyses": [asdict(one) for one in self.analyses],
            "comparison": None if self.comparisons is None else self.comparisons.as_json(),
            "course": self.course,
        }


def find(words: Sequence[str]) -> Request:
    """Read BASE TUNED [TUNED…], or RUN [RUN…] alone, whose base is the student they began from.

    Raises `RequestError` where there is nothing to compare, or runs began from different students.
    """
    if words and all(RunDir.is_run(word) for word in words):
        runs = [RunDir(word) for word in words]
        tuned = [
            Tuned(name, checkpoint_of(word), run)
            for name, word, run in zip(_names(words), words, runs, strict=True)
        ]
        return Request(_common_student(runs, tuned), tuned)
    if len(words) < 2:
        raise RequestError(
            "give the model before and after training, sparseopd analyze BASE TUNED, or a run folder"
        )
    base, *rest = words
    names = zip(_names(rest), rest, strict=True)
    return Request(checkpoint_of(base), [Tuned(name, checkpoint_of(word)) for name, word in names])


def _common_student(runs: Sequence[RunDir], tuned: Sequence[Tuned]) -> Tensors:
    """Open the student that all runs began from. Raises `RequestError` where there are several."""
    students = [recipes.load(run.recipe).student for run in runs]
    names = dict.fromkeys("@".join(filter(None, (one.path, one.revision))) for one in students)
    if len(names) > 1:
        raise RequestError(f"the runs began from different students: {', '.join(names)}")
    return student_of(runs[0], open_tensors(tuned[0].path))


def default_folder(request: Request) -> Path | None:
    """Return RUN/analysis where one run alone is looked at; None for anything else."""
    run = request.tuned[0].run if len(request.tuned) == 1 else None
    return None if run is None else run.path / "analysis"


def run_analyses(
    request: Request,
    *,
    master: str | None = None,
    settings: AnalysisSettings,
    folder: Path | None = None,
    command: str = "",
    progress: Progress | None = None,
) -> Outcome:
    """Analyse every update and, where there is a folder, write what the module's head lists.

    What an interrupted call has finished in the folder is not done again. Raises `RunFolderError` if the
    folder holds a finished analysis or something else, and as `analyze`.
    """
    if master is not None and len(request.tuned) > 1:
        raise RequestError("--fp32-master belongs to one update: analyse them one by one")
    if folder is None:
        return _analysed(request, master, settings, None, progress)
    with _made(folder):
        outcome = _analysed(request, master, settings, folder, progress)
        _write(outcome, folder, command)
    return outcome


def _analysed(
    request: Request,
    master: str | None,
    settings: AnalysisSettings,
    folder: Path | None,
    progress: Progress | None,
) -> Outcome:
    several = len(request.tuned) > 1
    opened = _opened(request, master, settings)
    analyses = [
        _analysis(
            name,
            sides,
            settings,
            folder / name if folder is not None and several else folder,
            labelled(progress, name) if several else progress,
        )
        for name, sides in opened.items()
    ]
    compared = None
    if several:
        compared = compare_supports(
            next(iter(opened.values())).base,
            {name: sides.tuned for name, sides in opened.items()},
            dtype=settings.dtype,
            include=settings.include,
            exclude=settings.exclude,
            folder=folder,
            progress=progress,
        )
    return Outcome(analyses, compared, _over_time(request, settings, folder, progress))


def _opened(request: Request, master: str | None, settings: AnalysisSettings) -> dict[str, Sides]:
    """Open every update, by name; all must be siblings before the first is analysed."""
    base = open_tensors(request.base)
    wide = None if master is None else open_tensors(checkpoint_of(master))
    opened = {one.name: Sides(base, open_tensors(one.path), wide) for one in request.tuned}
    for sides in opened.values():
        plan(sides, settings)
    return opened


def _over_time(
    request: Request, settings: AnalysisSettings, folder: Path | None, progress: Progress | None
) -> list[dict[str, Any]]:
    """The update of one run with snapshots, step by step; nothing for anything else."""
    run = request.tuned[0].run if len(request.tuned) == 1 else None
    if run is None or not run.snapshots.is_dir():
        return []
    steps = None if folder is None else folder / "course"
    return course(run, settings=settings, folder=steps, progress=progress)


def _analysis(
    name: str,
    sides: Sides,
    settings: AnalysisSettings,
    folder: Path | None,
    progress: Progress | None,
) -> Analysis:
    """Analyse one update, or read what an interrupted call found of it."""
    if folder is not None and (folder / RESULT).is_file():
        return _finished(folder, plan(sides, settings).request)
    if folder is not None:
        folder.mkdir(exist_ok=True)
    found = analyze(
        sides.base,
        sides.tuned,
        master=sides.master,
        settings=settings,
        folder=folder,
        progress=progress,
    )
    found = replace(found, name=name)
    if folder is not None:
        found.save(folder / RESULT)
        write_tables(found, folder)
    return found


def _finished(folder: Path, asked: dict[str, Any]) -> Analysis:
    """Return what an interrupted call found, if that is what is asked for now."""
    found = Analysis.load(folder / RESULT)
    if found.request != asked:
        raise RunFolderError(
            f"{folder} holds an analysis of {found.base} and {found.tuned} of other files, settings or "
            "version than are asked for: give another folder with -o"
        )
    return found


def _write(outcome: Outcome, folder: Path, command: str) -> None:
    drawings = []
    if outcome.comparisons is not None:
        write_json(folder / "comparison.json", outcome.comparisons.as_json())
        drawings += draw_supports(outcome.comparisons, "supports")
    if outcome.course:
        write_course(outcome.course, folder)
        drawings += draw_course(outcome.course, "course")
    title = "Where the update went" if len(outcome.analyses) == 1 else "Where the updates went"
    write_analysis(outcome.analyses, folder / PAGE, title=title, command=command, more=drawings)


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make the folder before the work, and remove it, and those made in it, where nothing came of it.

    Raises `RunFolderError` if it holds a finished analysis, or what no analysis has written.
    """
    if (folder / PAGE).exists():
        raise RunFolderError(f"{folder} holds a finished analysis: give another folder with -o")
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = set(folder.iterdir())
    except OSError as error:
        raise RunFolderError(f"cannot make the folder {folder}: {error.strerror}") from error
    if others and not kept_in(folder):
        raise RunFolderError(f"{folder} already holds files: give another folder with -o")
    try:
        yield
    finally:
        for made in (*set(folder.glob("*")) - others, *[folder] * new):
            with suppress(OSError):
                made.rmdir()  # which only an empty folder allows


def kept_in(folder: Path) -> bool:
    """Whether a folder, or one in it, holds an analysis or part of one, to go on from."""
    return any(
        any(folder.glob(pattern)) for name in (RESULT, PARTIAL) for pattern in (name, f"*/{name}")
    )


def _names(words: Sequence[str]) -> list[str]:
    """Call updates by the ends of their paths, as long as it takes to tell them apart.

    Names are those of folders too, so that roots, . and .. are no part of them.
    """
    paths = [Path(word) for word in words]
    ends = [[part for part in path.parts if part not in (path.anchor, "..")] for path in paths]
    for depth in range(1, 5):
        names = [re.sub(r"[:/\\]", "-", "-".join(parts[-depth:])) for parts in ends]
        if all(names) and len(set(names)) == len(names):
            return names
    return [f"update-{number}" for number in range(1, len(words) + 1)]
