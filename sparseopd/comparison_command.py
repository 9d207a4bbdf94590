"""`sparseopd compare`: parse, plan, do, print."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sparseopd import run_options as options
from sparseopd.console import console, explain, live_progress, print_json, say
from sparseopd.errors import RequestError

Words = Annotated[
    list[str],
    typer.Argument(
        metavar="RECIPE [KEY=VALUE]...",
        help="A comparison's YAML or any recipe, then any settings of either.",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        help="Its folder; one that was begun is gone on with.",
        show_default="compare-NAME",
    ),
]


def compare(
    words: Words,
    output: Output = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes at a time.", show_default="a core or a GPU each")
    ] = None,
    json: options.Json = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print the resolved comparison and the plan, for which a few steps are timed.",
        ),
    ] = False,
) -> None:
    """Train every arm with every seed, each at its own learning rate, and report which is better."""
    from sparseopd.comparison.settings import load

    named, settings = words[0], words[1:]
    if workers is not None:
        settings = [*settings, f"workers={workers}"]
    comparison = load(named, settings)
    folder = output or Path(f"compare-{comparison.name}")
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"{folder} is a file: give a folder with -o")
    if dry_run:
        sys.stdout.write("---\n" + comparison.to_yaml())
    from sparseopd.comparison import run as work
    from sparseopd.comparison.show import plan_table
    from sparseopd.report import comparison_tables, write_comparison
    from sparseopd.report.comparison_answer import comparison_answer

    found = work.plans(comparison)
    say("planning: a few steps of every study are timed first")
    paces = work.measure_pace(found, comparison, folder)
    for sentence in (sentence for plan in found for sentence in plan.left_out):
        explain(sentence)
    rows = [work.expected(plan, paces[plan.name], folder) for plan in found]
    console.print(plan_table(rows, work.workers_of(comparison)[0]))
    if dry_run:
        return
    command = shlex.join(["sparseopd", *sys.argv[1:]])
    with live_progress() as progress:
        results = work.compare(comparison, found, folder, paces, command=command, progress=progress)
    page = write_comparison(results, folder)
    for table in comparison_tables(results):
        console.print(table)
    for sentence in comparison_answer(results):
        explain(sentence)
    say(f"\nreport: {page}")
    if json:
        print_json(asdict(results))
