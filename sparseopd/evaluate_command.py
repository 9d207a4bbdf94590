"""The `sparseopd evaluate` command, and how scores are shown."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparseopd import recipe as recipes
from sparseopd import run_options as options
from sparseopd.artifacts import RunDir, Scores
from sparseopd.console import console, explain, live_progress, print_json, say
from sparseopd.errors import RequestError

if TYPE_CHECKING:
    from sparseopd.evaluation.plain import PlainSettings


def evaluate(
    words: options.Arms,
    output: options.FreeOutput = None,
    recipe: options.RecipeName = None,
    source: Annotated[bool, typer.Option(help="Also score the untrained student.")] = True,
    teacher: Annotated[bool, typer.Option(help="Also score the teacher.")] = True,
    engine: options.EngineName = "transformers",
    lm_eval: options.LmEval = None,
    lm_eval_path: options.LmEvalPath = None,
    lm_eval_limit: options.LmEvalLimit = None,
    json: options.Json = False,
    dry_run: options.DryRun = False,
) -> None:
    """Compare runs or models on the same held-out prompts, seeds and samples; or on benchmarks."""
    arms = [word for word in words if "=" not in word or Path(word).exists()]
    overrides = [word for word in words if word not in arms]
    if not arms:
        raise RequestError("nothing to evaluate: name at least one run folder or model")
    tasks = _task_names(lm_eval, lm_eval_path, lm_eval_limit)
    given = recipe or next((arm for arm in arms if RunDir.is_run(arm)), None)
    if given is None:
        settings = _without_recipe(arms, overrides, tasks, engine)
    else:
        settings = recipes.load(recipes.find(given), overrides)
    if dry_run:
        sys.stdout.write("---\n" + settings.to_yaml())
        return
    folder = RunDir.unused(output or next_free("evaluation"))
    from sparseopd.evaluation import arms_for
    from sparseopd.evaluation import evaluate as run_evaluate
    from sparseopd.evaluation.harness import Benchmarks
    from sparseopd.evaluation.plain import run_benchmarks

    benchmarks = Benchmarks(names=tasks, path=lm_eval_path, limit=lm_eval_limit) if tasks else None
    with live_progress() as progress:
        if isinstance(settings, recipes.Recipe):
            runs = [RunDir(arm) if RunDir.is_run(arm) else arm for arm in arms]
            chosen = arms_for(runs, settings, source=source, teacher=teacher)
            scores = run_evaluate(
                chosen, settings, engine=engine, benchmarks=benchmarks, progress=progress
            )
        else:
            assert benchmarks
            scores = run_benchmarks(arms, settings, benchmarks, progress=progress)
    _keep(scores, folder)
    show_scores([scores], folder.path, json)


def next_free(name: str) -> Path:
    """Return NAME-1, or the first such folder that does not exist."""
    number = 1
    while Path(f"{name}-{number}").exists():
        number += 1
    return Path(f"{name}-{number}")


def show_scores(scores: list[Scores], folder: Path, json: bool) -> None:
    """Print tables and findings of evaluations, and where their report lies."""
    from sparseopd.report import answer, benchmark_table, scores_table

    for one in scores:
        say(f"\n{one.name}")
        benchmarks, figures = benchmark_table(one), scores_table(one)
        if len(figures.columns) > 1:
            console.print(figures)
            for sentence in answer(one):
                explain(sentence)
        if benchmarks is not None:
            console.print(benchmarks)
    say(f"\nreport: {RunDir(folder).report}")
    if json:
        from dataclasses import asdict

        print_json([asdict(one) for one in scores])


def _without_recipe(
    models: list[str], overrides: list[str], tasks: tuple[str, ...], engine: str
) -> PlainSettings:
    """Return the settings of models that only run benchmarks. Raises `RequestError` for more."""
    if not tasks:
        raise RequestError(
            f"{models[0]} is not a run folder: give the prompts and teacher with --recipe, "
            "or only benchmarks with --lm-eval"
        )
    if engine != "transformers":
        raise RequestError(
            f"--engine {engine} samples on a recipe's prompts, and there is no recipe: drop it, or "
            "give one with --recipe"
        )
    from sparseopd.evaluation.plain import plain_settings

    return plain_settings(models, overrides)


def _keep(scores: Scores, folder: RunDir) -> None:
    """Write scores and report."""
    from sparseopd.report import write_report

    command = shlex.join(["sparseopd", *sys.argv[1:]])
    folder.create()
    scores.save(folder.scores)
    write_report([scores], folder.report, title=scores.name, command=command)


def _task_names(text: str | None, path: Path | None, limit: int | None) -> tuple[str, ...]:
    """Split the names of tasks. Raises `RequestError` for none, and for options that need some."""
    for option, value in (("--lm-eval-path", path), ("--lm-eval-limit", limit)):
        if text is None and value is not None:
            raise RequestError(f"{option} does nothing without --lm-eval: name the tasks to run")
    names = tuple(dict.fromkeys(name.strip() for name in (text or "").split(",") if name.strip()))
    if text is not None and not names:
        raise RequestError("--lm-eval names no task: give some, such as gsm8k,arc_easy")
    return names
