"""The options of the commands that run a recipe, with the help they print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sparseopd import recipe as recipes

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
Density = Annotated[
    float | None, typer.Option(help="Share of coordinates to keep.", show_default=False)
]
Selector = Annotated[
    str | None, typer.Option(help="A selector of `mask select`.", show_default=False)
]
UntilStable = Annotated[
    float | None,
    typer.Option(
        help="Stop early, once the mask's Jaccard index with the one of the check before is this.",
        show_default=False,
    ),
]
Snapshots = Annotated[
    str | None,
    typer.Option(help="Also keep the mask after these steps: 5,10,25.", show_default=False),
]
KeptWeights = Annotated[
    str | None,
    typer.Option(
        "--snapshots",
        help="Also keep the weights after these steps, for analyze: 5,10,25.",
        show_default=False,
    ),
]
Trained = Annotated[
    Path | None,
    typer.Option(help="Train only these coordinates; without it, all.", show_default=False),
]
Name = Annotated[str | None, typer.Option(help="What tables call this run.", show_default=False)]
Pairs = Annotated[
    list[str] | None,
    typer.Option(
        "--pair", help="A bundled pair; repeat for several.", show_default="arithmetic and digits"
    ),
]
Arms = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN|MODEL... [KEY=VALUE]...", help="Runs or models to compare.", show_default=False
    ),
]
RecipeName = Annotated[
    str | None,
    typer.Option(help="Recipe of prompts and pair. Default: the first run's.", show_default=False),
]
EngineName = Annotated[
    Literal["transformers", "vllm"],
    typer.Option("--engine", help="What samples: transformers, or vLLM where it is installed."),
]
LmEval = Annotated[
    str | None,
    typer.Option(
        "--lm-eval",
        help="Also run these tasks of lm-evaluation-harness on every arm: gsm8k,arc_easy. Without a "
        "run and a recipe, only these.",
        show_default=False,
    ),
]
LmEvalPath = Annotated[
    Path | None,
    typer.Option(
        "--lm-eval-path",
        help="A folder of your own tasks, or one YAML. A task can name Python code (!function), which "
        "is run: give only files you trust.",
        show_default=False,
    ),
]
LmEvalLimit = Annotated[
    int | None,
    typer.Option(
        "--lm-eval-limit",
        min=1,
        help="Documents of each task, to try it out. Default: all.",
        show_default=False,
    ),
]
CheckedMask = Annotated[
    Path | None, typer.Option(help="Of a run that trains this mask.", show_default=False)
]
CheckedDensity = Annotated[
    float | None, typer.Option(help="Or a mask of this share.", show_default=False)
]
Memory = Annotated[
    str | None,
    typer.Option(help="Plan for a device of this size, such as 24GiB.", show_default=False),
]
Place = Annotated[
    Path | None, typer.Option("-o", "--output", help="Where it would go.", show_default=False)
]


def recipe_of(words: list[str] | None, given: dict[str, Any]) -> recipes.Recipe:
    """Join a recipe (if named), `key=value` words and options into one validated recipe."""
    words = words or []
    named = words[:1] if words and ("=" not in words[0] or Path(words[0]).exists()) else []
    settings = [
        *words[len(named) :],
        *(f"{key}={value}" for key, value in given.items() if value is not None),
    ]
    return recipes.load(recipes.find(named[0]), settings) if named else recipes.build({}, settings)
