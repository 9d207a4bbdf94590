"""The options of `sparseopd mask select`, with the help they print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sparseopd.ranges import Dtype
from sparseopd.selection import Budget, SelectorName

BLOCKS = "ffn, attention, embedding, head, norm, vision, expert, other"

Base = Annotated[str, typer.Argument(help="The untrained model: a folder or hub id.")]
Tuned = Annotated[
    str | None,
    typer.Argument(
        help="The base after training, or a LoRA folder; for saliency a folder of scores. Not for "
        "selectors that look at the base alone.",
        show_default=False,
    ),
]
Selector = Annotated[SelectorName, typer.Option(help="How coordinates are chosen.", metavar="NAME")]
Density = Annotated[
    float | None,
    typer.Option(help="Share of the coordinates in scope. Default: 0.1.", show_default=False),
]
Number = Annotated[
    int | None,
    typer.Option("--k", help="Number of coordinates, instead of a density.", show_default=False),
]
Shared = Annotated[
    Budget | None,
    typer.Option(
        help="Where the share holds. Default: global; tensor for topk-per-tensor, low-magnitude and the "
        "principal family.",
        show_default=False,
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        help=f"Only tensors of this pattern or block ({BLOCKS}); repeat for several.",
        show_default=False,
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(help="Not tensors of this pattern or block; repeat.", show_default=False),
]
Threshold = Annotated[
    float | None,
    typer.Option(help="For threshold: keep |update| above it (1e-5).", show_default=False),
]
Compared = Annotated[
    Dtype | None,
    typer.Option(
        help="For changed: compare in this dtype (bfloat16).", show_default=False, metavar="DTYPE"
    ),
]
Eta = Annotated[
    float | None,
    typer.Option(
        help="For changed: a relative tolerance, such as 1e-3, instead of any bit.",
        show_default=False,
    ),
]
RelativeTo = Annotated[
    Literal["weight", "rms"] | None,
    typer.Option(help="For topk-relative: over |W| (default) or RMS(W).", show_default=False),
]
Rank = Annotated[
    float | None,
    typer.Option(
        help="For the principal family: share of the singular values (0.1).", show_default=False
    ),
]
Like = Annotated[
    Path | None,
    typer.Option(help="For random: draw as many as this mask has.", show_default=False),
]
Match = Annotated[
    Literal["tensor", "magnitude"] | None,
    typer.Option(
        help="With --like: as many in every tensor (default), or in every |weight| quantile of it.",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(help="Breaks ties, draws random masks.")]
