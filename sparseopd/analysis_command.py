"""The `sparseopd analyze` command."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from sparseopd.console import console, live_progress, print_json, say
from sparseopd.errors import Interrupted, RequestError
from sparseopd.mask_options import Exclude, Include
from sparseopd.ranges import Dtype

Models = Annotated[
    list[str],
    typer.Argument(
        metavar="BASE TUNED...|RUN...",
        help="A model before and after training, folders or hub ids; or runs of train, whose base "
        "is the student they began from. Several are also compared with each other.",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        help="Folder for analysis.html, analysis.json and CSVs; an interrupted analysis goes on "
        "there. Default: RUN/analysis for a run; for models nothing is written.",
        show_default=False,
    ),
]
Null = Annotated[
    bool, typer.Option("--null/--no-null", help="Draw null models beside every figure.")
]
Draws = Annotated[
    int | None,
    typer.Option(help="Draws of each null. Default: 3, more for few matrices.", show_default=False),
]
Master = Annotated[
    str | None,
    typer.Option(
        help="The tuned weights before rounding, in float32: figures then come in both. A TUNED "
        "stored wider than it is compared in is its own.",
        show_default=False,
    ),
]
Compared = Annotated[
    Dtype | None,
    typer.Option(
        help="Round to this dtype and subtract in it. Default: the narrower of the dtypes both are "
        "stored in. The paper: bfloat16.",
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(help="Where the linear algebra runs: cpu, cuda, cuda:1…")]
Seed = Annotated[int, typer.Option(help="Fixes what the nulls draw.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def analyze(
    models: Models,
    output: Output = None,
    null: Null = True,
    draws: Draws = None,
    fp32_master: Master = None,
    dtype: Compared = None,
    device: Device = "cpu",
    seed: Seed = 0,
    include: Include = None,
    exclude: Exclude = None,
    json: Json = False,
) -> None:
    """Say where an update went: sparsity, spectra and geometry, each beside its nulls."""
    from sparseopd.analyses import PAGE, default_folder, find, kept_in, run_analyses
    from sparseopd.analysis import AnalysisSettings
    from sparseopd.analysis.allocator import share_one_arena
    from sparseopd.report import analysis_tables

    if draws is not None and not null:
        raise RequestError(
            f"--no-null draws nothing, so --draws {draws} is not used: give one of them"
        )
    settings = AnalysisSettings(
        dtype=dtype,
        draws=draws if null else 0,
        seed=seed,
        device=device,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
    )
    request = find(models)
    folder = output or default_folder(request)
    command = shlex.join(["sparseopd", *sys.argv[1:]])
    share_one_arena()
    try:
        with live_progress() as progress:
            outcome = run_analyses(
                request,
                master=fp32_master,
                settings=settings,
                folder=folder,
                command=command,
                progress=progress,
            )
    except KeyboardInterrupt:
        if folder is None or not kept_in(folder):
            raise
        raise Interrupted(
            f"stopped: what is finished is kept in {folder}; go on with {command}"
        ) from None
    for shown in analysis_tables(outcome.analyses):
        console.print()
        console.print(shown)
    if folder is not None:
        say(f"\nreport: {folder / PAGE}")
    if json:
        print_json(outcome.as_json())
