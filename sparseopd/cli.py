"""The `sparseopd` command: parse, call, print. No logic here, and no torch until a stage runs."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sparseopd import recipe as recipes
from sparseopd import run_options as options
from sparseopd.adapter_commands import adapter_app
from sparseopd.analysis_command import analyze
from sparseopd.artifacts import RunDir, RunFacts
from sparseopd.comparison_command import compare
from sparseopd.console import (
    console,
    let_one_speak,
    live_progress,
    print_json,
    quiet_libraries,
    say,
)
from sparseopd.errors import Interrupted, RequestError, SparseOPDError
from sparseopd.evaluate_command import evaluate, next_free, show_scores
from sparseopd.mask_commands import mask_app

app = typer.Typer(
    help="Find the few weights that matter in on-policy distillation, and train and ship only those.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(mask_app, name="mask")
app.add_typer(adapter_app, name="adapter")
app.command()(analyze)
app.command()(evaluate)
app.command()(compare)

EXPLAINED = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.ENAMETOOLONG)
"""Errors of the operating system whose own sentence is all a user needs."""


@app.command()
def demo(
    output: options.FreeOutput = None,
    pairs: options.Pairs = None,
    seed: Annotated[int, typer.Option(help="Fixes everything.")] = 0,
    steps: Annotated[
        int | None, typer.Option(help="Updates of a full run.", show_default=False)
    ] = None,
    json: options.Json = False,
    dry_run: options.DryRun = False,
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
    show_scores(scores, folder, json)


@app.command()
def discover(
    words: options.Words = None,
    output: options.ResumableOutput = None,
    student: options.Student = None,
    teacher: options.Teacher = None,
    data: options.Data = None,
    density: options.Density = None,
    selector: options.Selector = None,
    steps: options.Steps = None,
    until_stable: options.UntilStable = None,
    snapshots: options.Snapshots = None,
    seed: options.Seed = None,
    resume: options.Resume = False,
    json: options.Json = False,
    dry_run: options.DryRun = False,
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
        recipe = options.recipe_of(words, given)
        if dry_run:
            return _print_recipe(recipe)
        folder = _new_folder(output)
        from sparseopd.distill import discover as run_discover

        with live_progress() as progress:
            run = run_discover(recipe, folder, progress=progress)
    facts = _show_course(run)
    mask = facts.mask or {}
    share = f"{mask['k']:,} coordinates ({100 * mask['density']:.3g} %)"
    say(f"mask of {share} in {facts.seconds:.0f} s: {run.mask}")
    say(f"next: sparseopd train {run.path} --mask {run.mask} -o NEW")
    if json:
        print_json({"run": str(run.path), "mask": str(run.mask), **mask})


@app.command()
def train(
    words: options.Words = None,
    output: options.ResumableOutput = None,
    mask: options.Trained = None,
    name: options.Name = None,
    student: options.Student = None,
    teacher: options.Teacher = None,
    data: options.Data = None,
    steps: options.Steps = None,
    snapshots: options.KeptWeights = None,
    seed: options.Seed = None,
    resume: options.Resume = False,
    json: options.Json = False,
    dry_run: options.DryRun = False,
) -> None:
    """Distil from the source weights, in full or only at the coordinates of a mask."""
    given = {
        "student.path": student,
        "teacher.path": teacher,
        "data.train": data,
        "train.steps": steps,
        "train.snapshots": None if snapshots is None else f"[{snapshots}]",
        "seed": seed,
    }
    if resume:
        run = _resume("train", words or [], [output, mask, name, *given.values()], dry_run)
    else:
        recipe = options.recipe_of(words, given)
        if dry_run:
            return _print_recipe(recipe)
        folder = _new_folder(output)
        from sparseopd.distill import train as run_train
        from sparseopd.masks import Mask

        loaded = Mask.load(mask) if mask else None
        with live_progress() as progress:
            run = run_train(recipe, folder, mask=loaded, name=name, progress=progress)
    facts = _show_course(run)
    if facts.mask:
        say(
            f"trained {facts.mask['k']:,} coordinates; every other coordinate has the source's bits (checked)"
        )
    say(f"checkpoint in {facts.seconds:.0f} s: {run.checkpoint}")
    say(f"next: sparseopd evaluate {run.path}")
    if facts.mask:
        say(f"ship it: sparseopd adapter extract {run.path} -o ADAPTER")
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
def check(
    words: options.Words = None,
    mask: options.CheckedMask = None,
    density: options.CheckedDensity = None,
    memory: options.Memory = None,
    output: options.Place = None,
    student: options.Student = None,
    teacher: options.Teacher = None,
    data: options.Data = None,
    json: options.Json = False,
    dry_run: options.DryRun = False,
) -> None:
    """Tell what stands in a run's way: vocabulary, memory, disk, traps. Loads no weights."""
    given = {"student.path": student, "teacher.path": teacher, "data.train": data}
    recipe = options.recipe_of(words, given)
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
        # All processes meet a wrong request, but only one may meet another failure.
        console.quiet &= error.exit_code == RequestError.exit_code
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


def _resume(stage: str, words: list[str], given: list[Any], dry_run: bool) -> RunDir:
    if len(words) != 1 or dry_run or any(value is not None for value in given):
        raise RequestError(
            "--resume goes on with a run as it was started: give its folder and nothing else, "
            f"sparseopd {stage} RUN --resume"
        )
    from sparseopd.distill import resume, resume_discovery

    with live_progress() as progress:
        go_on = resume_discovery if stage == "discover" else resume
        return go_on(words[0], progress=progress)


def _print_recipe(recipe: recipes.Recipe) -> None:
    sys.stdout.write("---\n" + recipe.to_yaml())


def _new_folder(output: Path | None) -> Path:
    if output is None:
        raise RequestError("give the new run a folder with -o")
    return output


def _show_course(run: RunDir) -> RunFacts:
    """Print where the figures of a run began and ended, if it trained, and its notes."""
    from sparseopd.report import run_table

    table = run_table(run.read_metrics())
    if table is not None:
        console.print(table)
    facts = run.read_facts()
    for note in facts.notes:
        say(note)
    return facts


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
