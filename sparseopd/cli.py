"""The `sparseopd` command: parse, call, print. No logic here, and no torch until a stage runs."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sparseopd import recipe as recipes
from sparseopd.artifacts import RunDir, Scores
from sparseopd.console import (
    console,
    explain,
    let_one_speak,
    live_progress,
    print_json,
    quiet_libraries,
    say,
)
from sparseopd.errors import Interrupted, RequestError, SparseOPDError
from sparseopd.mask_commands import mask_app

app = typer.Typer(
    help="Find the few weights that matter in on-policy distillation, and train and ship only those.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(mask_app, name="mask")

EXPLAINED = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.ENAMETOOLONG)
"""Errors of the operating system whose own sentence is all a user needs."""

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RECIPE] [KEY=VALUE]...",
        help="A YAML recipe, a run folder or a bundled name (tiny-arithmetic), then any settings.",
        show_default=False,
    ),
]
Student = Annotated[
    str | None, typer.Option(help="Folder or hub id of the student.", show_default=False)
]
Teacher = Annotated[
    str | None, typer.Option(help="Folder or hub id of the teacher.", show_default=False)
]
Data = Annotated[
    str | None, typer.Option(help="Prompts: JSONL, Parquet or hub id.", show_default=False)
]
ResumableOutput = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="A new folder; not with --resume.", show_default=False),
]
FreeOutput = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        help="A new folder. Default: the next free NAME-1, NAME-2…",
        show_default=False,
    ),
]
Steps = Annotated[int | None, typer.Option(help="Optimizer updates.", show_default=False)]
Seed = Annotated[
    int | None, typer.Option(help="Fixes data order, rollouts and ties.", show_default=False)
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on with the stopped run named first; see train.save_every."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and stop.")]


@app.command()
def demo(
    output: FreeOutput = None,
    pairs: Annotated[
        list[str] | None,
        typer.Option(
            "--pair",
            help="A bundled pair; repeat for several.",
            show_default="arithmetic and digits",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Fixes everything.")] = 0,
    steps: Annotated[
        int | None, typer.Option(help="Updates of a full run.", show_default=False)
    ] = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Run the whole idea on bundled pairs: discover, train, evaluate, report."""
    from sparseopd.demo import plans, run_demo

    if dry_run:
        for recipe in plans(pairs, seed, steps).values():
            _print_recipe(recipe)
        return
    folder = output or next_free("demo")
    with live_progress() as progress:
        scores = run_demo(folder, pairs=pairs, seed=seed, steps=steps, progress=progress)
    _show(scores, folder, json)


@app.command()
def discover(
    words: Words = None,
    output: ResumableOutput = None,
    student: Student = None,
    teacher: Teacher = None,
    data: Data = None,
    density: Annotated[
        float | None, typer.Option(help="Share of coordinates to keep.", show_default=False)
    ] = None,
    selector: Annotated[
        str | None, typer.Option(help="A selector of `mask select`.", show_default=False)
    ] = None,
    steps: Steps = None,
    until_stable: Annotated[
        float | None,
        typer.Option(
            help="Stop early, once the mask's Jaccard index with the one of the check before is this.",
            show_default=False,
        ),
    ] = None,
    snapshots: Annotated[
        str | None,
        typer.Option(help="Also keep the mask after these steps: 5,10,25.", show_default=False),
    ] = None,
    seed: Seed = None,
    resume: Resume = False,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Short full distillation; the coordinates that moved most become a mask."""
    given = {
        "student.path": student,
        "teacher.path": teacher,
        "data.train": data,
        "discover.density": density,
        "discover.selector": selector,
        "discover.steps": steps,
        "discover.until_stable": until_stable,
        "discover.snapshots": None if snapshots is None else f"[{snapshots}]",
        "seed": seed,
    }
    if resume:
        run = _resume("discover", words or [], [output, *given.values()], dry_run)
    else:
        recipe = _recipe(words, given)
        if dry_run:
            return _print_recipe(recipe)
        if output is None:
            raise RequestError("give the new run a folder with -o")
        from sparseopd.distill import discover as run_discover

        with live_progress() as progress:
            run = run_discover(recipe, output, progress=progress)
    _show_course(run)
    facts = run.read_facts()
    for note in facts.notes:
        say(note)
    mask = facts.mask or {}
    share = f"{mask['k']:,} coordinates ({100 * mask['density']:.3g} %)"
    say(f"mask of {share} in {facts.seconds:.0f} s: {run.mask}")
    say(f"next: sparseopd train {run.path} --mask {run.mask} -o NEW")
    if json:
        print_json({"run": str(run.path), "mask": str(run.mask), **mask})


@app.command()
def train(
    words: Words = None,
    output: ResumableOutput = None,
    mask: Annotated[
        Path | None,
        typer.Option(help="Train only these coordinates; without it, all.", show_default=False),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What tables call this run.", show_default=False)
    ] = None,
    student: Student = None,
    teacher: Teacher = None,
    data: Data = None,
    steps: Steps = None,
    seed: Seed = None,
    resume: Resume = False,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Distil from the source weights, in full or only at the coordinates of a mask."""
    given = {
        "student.path": student,
        "teacher.path": teacher,
        "data.train": data,
        "train.steps": steps,
        "seed": seed,
    }
    if resume:
        run = _resume("train", words or [], [output, mask, name, *given.values()], dry_run)
    else:
        recipe = _recipe(words, given)
        if dry_run:
            return _print_recipe(recipe)
        if output is None:
            raise RequestError("give the new run a folder with -o")
        from sparseopd.distill import train as run_train
        from sparseopd.masks import Mask

        loaded = Mask.load(mask) if mask else None
        with live_progress() as progress:
            run = run_train(recipe, output, mask=loaded, name=name, progress=progress)
    _show_course(run)
    facts = run.read_facts()
    for note in facts.notes:
        say(note)
    if facts.mask:
        say(
            f"trained {facts.mask['k']:,} coordinates; every other coordinate has the source's bits (checked)"
        )
    say(f"checkpoint in {facts.seconds:.0f} s: {run.checkpoint}")
    say(f"next: sparseopd evaluate {run.path}")
    if json:
        print_json(
            {
                "run": str(run.path),
                "checkpoint": str(run.checkpoint),
                "kind": facts.kind,
                **facts.final,
            }
        )


@app.command()
def evaluate(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|MODEL... [KEY=VALUE]...",
            help="Runs or models to compare.",
            show_default=False,
        ),
    ],
    output: FreeOutput = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Recipe of prompts and pair. Default: the first run's.", show_default=False
        ),
    ] = None,
    source: Annotated[bool, typer.Option(help="Also score the untrained student.")] = True,
    teacher: Annotated[bool, typer.Option(help="Also score the teacher.")] = True,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Compare runs or models on the same held-out prompts, seeds and samples."""
    arms = [word for word in words if "=" not in word or Path(word).exists()]
    overrides = [word for word in words if word not in arms]
    if not arms:
        raise RequestError("nothing to evaluate: name at least one run folder or model")
    given = recipe or next((arm for arm in arms if RunDir.is_run(arm)), None)
    if given is None:
        raise RequestError(
            f"{arms[0]} is not a run folder: give the prompts and teacher with --recipe"
        )
    loaded = recipes.load(recipes.find(given), overrides)
    if dry_run:
        return _print_recipe(loaded)
    folder = RunDir.unused(output or next_free("evaluation"))
    from sparseopd.evaluation import arms_for
    from sparseopd.evaluation import evaluate as run_evaluate
    from sparseopd.report import write_report

    chosen = arms_for(
        [RunDir(arm) if RunDir.is_run(arm) else arm for arm in arms],
        loaded,
        source=source,
        teacher=teacher,
    )
    with live_progress() as progress:
        scores = run_evaluate(chosen, loaded, progress=progress)
    folder.create()
    scores.save(folder.scores)
    write_report([scores], folder.report, title=loaded.name, command=_command())
    _show([scores], folder.path, json)


@app.command()
def check(
    words: Words = None,
    mask: Annotated[
        Path | None, typer.Option(help="Of a run that trains this mask.", show_default=False)
    ] = None,
    density: Annotated[
        float | None, typer.Option(help="Or a mask of this share.", show_default=False)
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="Plan for a device of this size, such as 24GiB.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where it would go.", show_default=False)
    ] = None,
    student: Student = None,
    teacher: Teacher = None,
    data: Data = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Tell what stands in a run's way: vocabulary, memory, disk, traps. Loads no weights."""
    given = {"student.path": student, "teacher.path": teacher, "data.train": data}
    recipe = _recipe(words, given)
    if dry_run:
        return _print_recipe(recipe)
    from sparseopd.feasibility import check_recipe, make_request
    from sparseopd.feasibility.show import rendered

    request = make_request(recipe, mask=mask, density=density, memory=memory, output=output)
    report = check_recipe(request)
    console.print(rendered(report))
    if json:
        print_json(report.as_json())
    report.raise_errors()


def main() -> None:
    """Run the command line; a wrong request ends in one sentence and exit code 2."""
    quiet_libraries()
    let_one_speak()
    try:
        app()
    except Interrupted as stopped:
        say(str(stopped))
        sys.exit(stopped.exit_code)
    except SparseOPDError as error:
        console.quiet &= (
            error.exit_code == RequestError.exit_code
        )  # all processes meet a wrong request
        console.print(f"[bold red]error:[/] {_escaped(str(error))}", soft_wrap=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in EXPLAINED:
            raise
        console.print(f"[bold red]error:[/] {_escaped(str(error))}", soft_wrap=True)
        sys.exit(2)
    except SystemExit as left:  # which is what Typer makes of a KeyboardInterrupt
        if left.code == Interrupted.exit_code:
            say("interrupted: nothing more was written")
        raise


def next_free(name: str) -> Path:
    """Return NAME-1, or the first such folder that does not exist."""
    number = 1
    while Path(f"{name}-{number}").exists():
        number += 1
    return Path(f"{name}-{number}")


def _recipe(words: list[str] | None, given: dict[str, Any]) -> recipes.Recipe:
    """Join a recipe (if named), `key=value` words and options into one validated recipe."""
    words = words or []
    named = words[:1] if words and ("=" not in words[0] or Path(words[0]).exists()) else []
    settings = [
        *words[len(named) :],
        *(f"{key}={value}" for key, value in given.items() if value is not None),
    ]
    return recipes.load(recipes.find(named[0]), settings) if named else recipes.build({}, settings)


def _resume(stage: str, words: list[str], given: list[Any], dry_run: bool) -> RunDir:
    if len(words) != 1 or dry_run or any(value is not None for value in given):
        raise RequestError(
            "--resume goes on with a run as it was started: give its folder and nothing else, "
            f"sparseopd {stage} RUN --resume"
        )
    from sparseopd.distill.discover import resume as resume_discovery
    from sparseopd.distill.train import resume as resume_training

    with live_progress() as progress:
        go_on = resume_discovery if stage == "discover" else resume_training
        return go_on(words[0], progress=progress)


def _print_recipe(recipe: recipes.Recipe) -> None:
    sys.stdout.write("---\n" + recipe.to_yaml())


def _show_course(run: RunDir) -> None:
    """Print where the figures of a training run began and ended; nothing where nothing was trained."""
    from sparseopd.report import run_table

    table = run_table(run.read_metrics())
    if table is not None:
        console.print(table)


def _show(scores: list[Scores], folder: Path, json: bool) -> None:
    from sparseopd.report import answer, scores_table

    for one in scores:
        say(f"\n{one.name}")
        console.print(scores_table(one))
        for sentence in answer(one):
            explain(sentence)
    say(f"\nreport: {RunDir(folder).report}")
    if json:
        from dataclasses import asdict

        print_json([asdict(one) for one in scores])


def _command() -> str:
    import shlex

    return shlex.join(["sparseopd", *sys.argv[1:]])


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
