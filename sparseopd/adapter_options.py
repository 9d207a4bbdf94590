"""The options of `sparseopd adapter`, with the help they print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Base = Annotated[
    str,
    typer.Argument(
        metavar="BASE|RUN",
        help="The model before training: a folder, hub id or bundled:PAIR/student. Or a run of "
        "train alone, which began from its student.",
        show_default=False,
    ),
]
Tuned = Annotated[
    str | None,
    typer.Argument(
        metavar="TUNED",
        help="The same model after training, or a run of train.",
        show_default=False,
    ),
]
Model = Annotated[str, typer.Argument(metavar="BASE", help="The model: a folder or hub id.")]
Adapter = Annotated[str, typer.Argument(metavar="ADAPTER", help="Its folder or hub id.")]
Adapters = Annotated[
    list[str],
    typer.Argument(metavar="ADAPTER", help="One, or patches in the order they are applied."),
]
Source = Annotated[
    str,
    typer.Argument(metavar="SOURCE", help="An adapter of any format: a folder, file or hub id."),
]
Output = Annotated[Path, typer.Option("-o", "--output", help="The new folder.")]
Mask = Annotated[
    Path | None,
    typer.Option(
        help="Take the values at this mask's coordinates. Default: those a run trained, else all "
        "that changed.",
        show_default=False,
    ),
]
Density = Annotated[
    float | None,
    typer.Option(
        help="Take this share of all coordinates, those that moved most.", show_default=False
    ),
]
Number = Annotated[
    int | None,
    typer.Option("--k", help="Take this many of them, instead of a density.", show_default=False),
]
Masters = Annotated[
    bool,
    typer.Option(
        "--masters", help="Keep float32 values too, to go on training from: TUNED must have them."
    ),
]
Teacher = Annotated[
    str | None,
    typer.Option(help="What TUNED learned from. Default: the run's teacher.", show_default=False),
]
License = Annotated[
    str | None,
    typer.Option(
        help="For the model card, such as apache-2.0. Default: unknown, to be filled in.",
        show_default=False,
    ),
]
Scored = Annotated[
    Path | None,
    typer.Option(
        help="For the model card: scores.json of an evaluation of TUNED, or its folder.",
        show_default=False,
    ),
]
To = Annotated[
    str | None,
    typer.Option(
        "--to",
        help="sparse (default for a foreign SOURCE), shira, supertuning, lora, vllm-patch or coo.",
        show_default=False,
        metavar="FORMAT",
    ),
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        help="What SOURCE is: one of these, or lt-sft. Default: as its files say.",
        show_default=False,
        metavar="FORMAT",
    ),
]
OtherBase = Annotated[
    str | None,
    typer.Option(
        "--base", help="The model it belongs to. Default: what SOURCE names.", show_default=False
    ),
]
Rank = Annotated[
    int | None,
    typer.Option(help="For lora: the rank of each layer. Default: 16.", show_default=False),
]
NoMasters = Annotated[
    bool, typer.Option("--no-masters", help="Leave out the float32 values of a sparse adapter.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
