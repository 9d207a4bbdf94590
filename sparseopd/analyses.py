"""What `sparseopd analyze` does: find the checkpoints, analyse each, compare them, write it all down.

FOLDER/analysis.json       one update: everything measured (analysis.Analysis)
FOLDER/*.csv               the same as tables
FOLDER/NAME/…              of several updates, each one's own
FOLDER/comparison.json     of several updates: how far their supports overlap, how far they agree
FOLDER/course.json, .csv   of one run with snapshots: its update over time
FOLDER/analysis.html       all of it, to read; written last
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sparseopd.analysis import Analysis, AnalysisSettings, analyze
from sparseopd.analysis.comparison import Comparisons, compare_supports
from sparseopd.analysis.course import course, write_course
from sparseopd.analysis.request import plain
from sparseopd.analysis.sums import PARTIAL
from sparseopd.analysis.tables import write_tables
from sparseopd.artifacts import Progress, RunDir, write_json
from sparseopd.errors import RequestError, RunFolderError
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
    """The run that made it, if it is one's."""


@dataclass(frozen=True)
class Request:
    """The checkpoints to compare."""

    base: str
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
        students = dict.fromkeys(RunDir(word).read_facts().student for word in words)
        if len(students) > 1:
            raise RequestError(f"the runs began from different students: {', '.join(students)}")
        base, rest = next(iter(students)), list(words)
    elif len(words) < 2:
        raise RequestError(
            "give the model before and after training, sparseopd analyze BASE TUNED, or a run folder"
        )
    else:
        base, rest = _checkpoint(words[0]), list(words[1:])
    names = _names(rest)
    return Request(base, [_tuned(name, word) for name, word in zip(names, rest, strict=True)])


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
    analyses = [
        _analysis(
            request.base,
            tuned,
            None if master is None else _checkpoint(master),
            settings,
            folder / tuned.name if folder is not None and several else folder,
            _labelled(progress, tuned.name) if several else progress,
        )
        for tuned in request.tuned
    ]
    paths = {tuned.name: tuned.path for tuned in request.tuned}
    compared = None
    if several:
        compared = compare_supports(
            request.base,
            paths,
            dtype=settings.dtype,
            include=settings.include,
            exclude=settings.exclude,
            progress=progress,
        )
    return Outcome(analyses, compared, _over_time(request, settings, folder, progress))


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
    base: str,
    tuned: Tuned,
    master: str | None,
    settings: AnalysisSettings,
    folder: Path | None,
    progress: Progress | None,
) -> Analysis:
    """Analyse one update, or read what an interrupted call found of it."""
    if folder is not None and (folder / RESULT).is_file():
        return _finished(Analysis.load(folder / RESULT), base, tuned, settings, folder)
    if folder is not None:
        folder.mkdir(exist_ok=True)
    found = analyze(
        base, tuned.path, master=master, settings=settings, folder=folder, progress=progress
    )
    found = replace(found, name=tuned.name)
    if folder is not None:
        found.save(folder / RESULT)
        write_tables(found, folder)
    return found


def _finished(
    found: Analysis, base: str, tuned: Tuned, settings: AnalysisSettings, folder: Path
) -> Analysis:
    """Return what an interrupted call found, if that is what is asked for now."""
    asked = settings.resolved(found.whole["matrices"])
    same = plain(asdict(asked)).items() <= found.settings.items()
    if (found.base, found.tuned) != (base, tuned.path) or not same:
        raise RunFolderError(
            f"{folder} holds an analysis of {found.base} and {found.tuned}, or with other settings: "
            "give another folder with -o"
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
    """Make the folder before the work, and remove it where the work came to nothing.

    Raises `RunFolderError` if it holds a finished analysis, or what no analysis has written.
    """
    if (folder / PAGE).exists():
        raise RunFolderError(f"{folder} holds a finished analysis: give another folder with -o")
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = any(folder.iterdir())
    except OSError as error:
        raise RunFolderError(f"cannot make the folder {folder}: {error.strerror}") from error
    ours = [
        path
        for name in (RESULT, PARTIAL)
        for path in (*folder.glob(name), *folder.glob(f"*/{name}"))
    ]
    if others and not ours:
        raise RunFolderError(f"{folder} already holds files: give another folder with -o")
    try:
        yield
    finally:
        with suppress(OSError):
            if new:
                folder.rmdir()  # which only an empty folder allows


def _tuned(name: str, word: str) -> Tuned:
    return Tuned(name, _checkpoint(word), RunDir(word) if RunDir.is_run(word) else None)


def _checkpoint(word: str) -> str:
    """The weights behind a word: a run's checkpoint, or the model itself."""
    if not RunDir.is_run(word):
        return word
    run = RunDir(word)
    if not run.checkpoint.is_dir():
        raise RequestError(
            f"{word} is a {run.read_facts().kind} run and left no checkpoint: give one of train"
        )
    return str(run.checkpoint)


def _names(words: Sequence[str]) -> list[str]:
    """Call updates by the ends of their paths, as long as it takes to tell them apart."""
    for depth in range(1, 5):
        names = ["-".join(Path(word).parts[-depth:]).replace(":", "-") for word in words]
        if len(set(names)) == len(names):
            return names
    return [f"update-{number}" for number in range(1, len(words) + 1)]


def _labelled(progress: Progress | None, label: str) -> Progress | None:
    if progress is None:
        return None

    def report(stage: str, done: int, total: int, unit: str = "", detail: str = "") -> None:
        progress(f"{label}: {stage}", done, total, unit, detail)

    return report
