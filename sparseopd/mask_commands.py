"""The `sparseopd mask` commands: make, look at, combine, compare and check masks."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparseopd import mask_options as options
from sparseopd.console import console, explain, live_progress, print_json, say
from sparseopd.errors import MaskMismatchError, PairError, RequestError

if TYPE_CHECKING:
    from sparseopd.masks import Mask
    from sparseopd.masks.overlap import Overlap, TensorOverlap
    from sparseopd.pairs import Tensors

mask_app = typer.Typer(
    help="Make, look at, combine, compare and check masks.", no_args_is_help=True
)

LISTED = 20
"""Tensors that `verify` names one by one."""
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="The mask file to write.")]
Figure = Annotated[
    Path | None, typer.Option(help="Also draw it: .svg, .png or .pdf.", show_default=False)
]


class Operation(StrEnum):
    """What `mask combine` does."""

    union = "union"
    intersection = "intersection"
    difference = "difference"
    complement = "complement"


@mask_app.command("select")
def select_mask(
    base: options.Base,
    tuned: options.Tuned = None,
    output: Output = ...,  # pyright: ignore  # typer's way to say "required"
    selector: options.Selector = "topk",
    density: options.Density = None,
    k: options.Number = None,
    budget: options.Shared = None,
    include: options.Include = None,
    exclude: options.Exclude = None,
    threshold: options.Threshold = None,
    dtype: options.Compared = None,
    eta: options.Eta = None,
    relative_to: options.RelativeTo = None,
    rank: options.Rank = None,
    like: options.Like = None,
    match: options.Match = None,
    seed: options.Seed = 0,
    json: Json = False,
) -> None:
    """Take a mask from checkpoints on disk, without loading a model.

    Selectors that compare BASE with TUNED: topk, topk-relative, topk-per-tensor, threshold, changed.

    Of BASE alone: low-magnitude, principal, off-principal, off-principal-or-low, random.

    Of BASE and a folder of scores that discover wrote: saliency.
    """
    _check_output(output)
    from sparseopd.masks import Mask, select

    given = {
        "density": density,
        "k": k,
        "budget": budget,
        "include": include or [],
        "exclude": exclude or [],
        "threshold": threshold,
        "dtype": dtype,
        "eta": eta,
        "relative_to": relative_to,
        "rank": rank,
        "match": match,
    }
    with live_progress() as progress:
        mask = select(
            base,
            tuned,
            selector=selector,
            like=Mask.load(like) if like else None,
            seed=seed,
            output=output,
            progress=progress,
            **given,
        )
    _announce(mask, output, json)


@mask_app.command("show")
def show_mask(mask: Path, figure: Figure = None, json: Json = False) -> None:
    """Say what a mask is: density by layer and module, and where it came from."""
    from sparseopd.masks import Mask, layout
    from sparseopd.report import draw_mask, mask_tables

    loaded = Mask.load(mask)
    rows = layout(loaded)
    title = f"{mask.stem}: {_size(loaded)}"
    if figure is not None:
        draw_mask(rows, figure, title)
    if json:
        known = asdict(loaded.provenance)
        known["base_hashes"] = len(known["base_hashes"])
        return print_json({**_facts(loaded), "provenance": known, "layout": rows})
    for line in (_size(loaded), *_origin(loaded)):
        say(line)
    for table in mask_tables(rows):
        console.print()
        console.print(table)
    if figure is not None:
        say(f"figure: {figure}")


@mask_app.command("combine")
def combine_masks(
    operation: Operation,
    masks: Annotated[list[Path], typer.Argument(help="Mask files of one model.")],
    output: Output = ...,  # pyright: ignore
    json: Json = False,
) -> None:
    """Join masks: union, intersection, difference (the first without the others), complement."""
    _check_output(output)
    from sparseopd.masks import Mask

    if (operation is Operation.complement) != (len(masks) == 1):
        needs = "one mask" if operation is Operation.complement else "two masks or more"
        raise RequestError(f"{operation} needs {needs}, and {len(masks)} were given")
    first, *others = [Mask.load(mask) for mask in masks]
    combined = ~first if operation is Operation.complement else first
    for other in others:
        if operation is Operation.union:
            combined = combined | other
        elif operation is Operation.intersection:
            combined = combined & other
        else:
            combined = combined - other
    if not combined.count():
        raise RequestError(
            f"the {operation} of {', '.join(map(str, masks))} is empty: nothing to write"
        )
    combined.save(output)
    _announce(Mask.load(output), output, json)


@mask_app.command("overlap")
def overlap_masks(
    masks: Annotated[list[Path], typer.Argument(help="Two mask files of one model, or more.")],
    base: Annotated[
        str | None,
        typer.Option(
            help="The model they choose from, for the null matched by |weight|. Default: what the "
            "first mask names as its base.",
            show_default=False,
        ),
    ] = None,
    figure: Figure = None,
    json: Json = False,
) -> None:
    """Compare masks: Jaccard, coverage, chance, and the margin over a null matched by |weight|."""
    from sparseopd.masks import Mask
    from sparseopd.masks.overlap import overlaps
    from sparseopd.report import draw_overlap, overlap_tables
    from sparseopd.report.file import require_figure_suffix

    if figure is not None:
        require_figure_suffix(figure)
    loaded, names = [Mask.load(mask) for mask in masks], _names(masks)
    tensors = _base(loaded[0], base)
    rows = overlaps(loaded, tensors)
    if figure is not None:
        draw_overlap(names, rows, figure)
    if json:
        return print_json(
            [_pair(names[one], names[two], found) for (one, two), found in rows.items()]
        )
    for table in overlap_tables(names, rows):
        console.print()
        console.print(table)
    explain(
        "\nChance: the second mask spread evenly. Null: drawn anew within every |W| quantile of every "
        "tensor; margin: A in B above it, and in its standard deviations (sd)."
        + (" By block and layer: --json." if len(masks) > 2 else "")
    )
    if figure is not None:
        say(f"figure: {figure}")


@mask_app.command("verify")
def verify_mask(mask: Path, model: str, json: Json = False) -> None:
    """Check a mask file, and that it belongs to a model: names, shapes and content."""
    from sparseopd.masks import Mask

    loaded = Mask.load(mask)
    loaded.digest()  # reads every bit, so that an altered file is found as well
    try:
        loaded.verify(model)
    except MaskMismatchError as error:
        if json:
            print_json({"fits": False, "tensors": error.tensors})
        wrong = [] if json else [f"{name}: {what}" for name, what in error.tensors.items()]
        for line in wrong[:LISTED]:
            say(line)
        if len(wrong) > LISTED:
            say(
                f"and {len(wrong) - LISTED:,} more of {len(loaded.names):,} tensors; --json lists all"
            )
        raise
    if json:
        return print_json({"fits": True, "tensors": {}})
    hashed = sum(name in loaded.provenance.base_hashes for name in loaded.names)
    content = "content" if hashed == len(loaded.names) else f"({hashed} of them) content"
    say(f"the mask fits {model}: {len(loaded.names)} tensors agree in name, shape and {content}")


def _check_output(output: Path) -> None:
    """Refuse a file that exists or has no folder to lie in, before anything is read."""
    if len(output.name) < 200 and output.exists():
        raise RequestError(f"{output} exists already: give another name with -o")
    if len(output.name.encode()) > 200:
        raise RequestError(
            f"the name {output.name[:40]}… is too long for a file: give a shorter one"
        )
    if not output.absolute().parent.is_dir():
        raise RequestError(
            f"there is no folder {output.parent} to write {output.name} to: make it first"
        )


def _size(mask: Mask) -> str:
    return f"{mask.count():,} of {mask.numel():,} coordinates ({100 * mask.density():.3g} %)"


def _facts(mask: Mask) -> dict[str, Any]:
    return {"k": mask.count(), "numel": mask.numel(), "density": mask.density()}


def _announce(mask: Mask, output: Path, json: bool) -> None:
    bits = 8 * output.stat().st_size / max(1, mask.numel())
    say(f"mask of {_size(mask)}: {output}, {bits:.3g} bits a coordinate")
    for sentence in _idle(mask):
        explain(sentence)
    if json:
        print_json({"mask": str(output), **_facts(mask), "bytes": output.stat().st_size})


def _origin(mask: Mask) -> list[str]:
    """Sentences on where a mask came from."""
    known = mask.provenance
    settings = ", ".join(f"{key} {_plain(value)}" for key, value in known.settings.items())
    lines = [f"selector {known.selector or 'unknown'}" + (f" ({settings})" if settings else "")]
    revision = f" at {known.revision}" if known.revision else ""
    lines.append(f"base {known.base or 'unknown'}{revision}, seed {known.seed}")
    if known.stored_in:
        sides = (f"{side} in {'/'.join(dtypes)}" for side, dtypes in known.stored_in.items())
        lines.append(f"stored: {', '.join(sides)}")
    if known.tuned:
        compared = f"compared with {known.tuned} in {known.compared_in}"
        lines.append(compared if known.compared_in else f"ranked by {known.tuned}")
    lines += _idle(mask)
    if known.steps:
        lines.append(f"found after {known.steps} steps of discovery")
    if known.stability:
        last = known.stability[-1]["step"]
        settled = "; ".join(
            f"{row['jaccard']:.2f} at {100 * row['density']:.3g} %"
            for row in known.stability
            if row["step"] == last
        )
        lines.append(f"Jaccard of steps {known.stability[-1]['since']} and {last}: {settled}")
    return lines


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _idle(mask: Mask) -> list[str]:
    """A sentence if some chosen coordinates did not move."""
    idle = mask.provenance.idle
    share = f"{idle:,} of the {mask.count():,} chosen did not move and were drawn by the seed"
    return [f"{share}: a lower density would leave them out"] if idle else []


def _names(paths: list[Path]) -> list[str]:
    """Call masks by their files, with as many of their folders as tell them apart."""
    for depth in range(1, 4):
        names = ["/".join((*path.parts[-depth:-1], path.stem)) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{number}: {path}" for number, path in enumerate(paths, 1)]


def _base(mask: Mask, given: str | None) -> Tensors | None:
    """Open the base whose weights the null is matched to; without it there is chance alone."""
    from sparseopd.pairs.folder import FolderTensors
    from sparseopd.pairs.locate import weights_folder

    if given is not None:
        return FolderTensors(weights_folder(given), label=given)
    named, revision = mask.provenance.base, mask.provenance.revision
    if not named:
        return None
    try:
        return FolderTensors(weights_folder(named, revision, cached_only=True), label=named)
    except PairError:
        say(f"no null: the masks' base {named} is not here; name it with --base")
        return None


def _pair(first: str, second: str, rows: list[TensorOverlap]) -> dict[str, Any]:
    from sparseopd.masks.overlap import by_block, by_layer, together

    return {
        "first": first,
        "second": second,
        "all": _figures(together(rows)),
        "by_block": {block: _figures(overlap) for block, overlap in by_block(rows).items()},
        "by_layer": {layer: _figures(overlap) for layer, overlap in by_layer(rows).items()},
    }


def _figures(overlap: Overlap) -> dict[str, Any]:
    derived = ("jaccard", "coverage", "coverage_back", "chance", "null", "margin", "deviations")
    return {**asdict(overlap), **{name: getattr(overlap, name) for name in derived}}
