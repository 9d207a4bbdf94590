"""The `sparseopd adapter` commands: make, apply, check, look at and convert adapters."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.filesize import decimal

from sparseopd import adapter_options as options
from sparseopd.artifacts import RunDir
from sparseopd.console import console, explain, live_progress, print_json, say
from sparseopd.errors import AdapterMismatchError, RequestError

if TYPE_CHECKING:
    from sparseopd.adapter_files.adapter import SparseAdapter
    from sparseopd.adapter_files.extract import Extracted
    from sparseopd.adapter_requests import Subject
    from sparseopd.selection import Selection

adapter_app = typer.Typer(
    help="Make, apply, check, look at and convert adapters.", no_args_is_help=True
)

LISTED = 20
"""Tensors that `verify` names one by one."""
DIGITS = 12
"""Digits of a digest that a person is shown."""


@adapter_app.command("extract")
def extract_adapter(
    base: options.Base,
    tuned: options.Tuned = None,
    output: options.Output = ...,  # pyright: ignore  # typer's way to say "required"
    mask: options.Mask = None,
    density: options.Density = None,
    k: options.Number = None,
    masters: options.Masters = False,
    teacher: options.Teacher = None,
    scores: options.Scored = None,
    license: options.License = None,
    json: options.Json = False,
) -> None:
    """Make an adapter from a model before and after training, streamed, with its model card.

    Of RUN alone: from its student to its checkpoint, at the mask it trained; its teacher is recorded.

    Of two checkpoints of one training it is a patch from the first to the second.
    """
    _check_output(output)
    selection = _selection(mask, density, k)
    from sparseopd.adapter_requests import find, make
    from sparseopd.masks.mask import Mask

    subject = find(base, tuned)
    with live_progress() as progress:
        made = make(
            subject,
            output,
            mask=None if mask is None else Mask.load(mask),
            selection=selection,
            masters=masters,
            teacher=teacher,
            license=license,
            scores=scores,
            progress=progress,
        )
    facts = _extracted(made)
    say(
        f"adapter of {_share(made.k, made.numel)}: {output}, {decimal(made.bytes)}, "
        f"{facts['bits_per_value']:.3g} bits a value"
    )
    for sentence in _faithfulness(made, subject, masters):
        explain(sentence)
    if json:
        print_json(facts)


@adapter_app.command("apply")
def apply_adapters(
    base: options.Model,
    adapters: options.Adapters,
    output: options.Output = ...,  # pyright: ignore
    json: options.Json = False,
) -> None:
    """Write the checkpoint that adapters make of a model, streamed; no model is loaded.

    Several are applied one after another, each checked against what those before it leave.
    """
    _check_output(output)
    from sparseopd.adapter_files.apply import apply_to_folder

    with live_progress() as progress:
        made = apply_to_folder(base, adapters, output, progress=progress)
    patches = f", of {made.adapters} patches" if made.adapters > 1 else ""
    say(f"{made.k:,} values{patches} in {made.tensors:,} tensors of {base}: {output}")
    checked = (
        "every tensor was the one the adapter was made for; all other weights keep their bits"
        if made.verified
        else "some tensors have no hash in the adapter, so that another base cannot be told from theirs"
    )
    explain(checked)
    if made.rounded:
        explain(f"{made.rounded:,} values were rounded to the dtype of {base}, which is narrower")
    if made.left_out:
        explain(f"not copied: {', '.join(made.left_out)}")
    if json:
        print_json({**asdict(made), "folder": str(made.folder)})


@adapter_app.command("verify")
def verify_adapter(
    adapter: options.Adapter, base: options.Model, json: options.Json = False
) -> None:
    """Check an adapter's file, and that it belongs to a model: names, shapes and content."""
    from sparseopd.adapter_files.adapter import SparseAdapter

    loaded = SparseAdapter.load(adapter)
    loaded.check()
    try:
        loaded.verify(base)
    except AdapterMismatchError as error:
        if json:
            print_json({"fits": False, "tensors": error.tensors})
        else:
            _list(error.tensors, len(loaded.names))
        raise
    if json:
        return print_json({"fits": True, "tensors": {}})
    hashed = len(loaded.mask.provenance.base_hashes)
    content = "content" if hashed == len(loaded.names) else f"({hashed} of them) content"
    say(
        f"the adapter is whole and fits {base}: {len(loaded.names)} tensors agree in name, shape and "
        f"{content}"
    )


@adapter_app.command("show")
def show_adapter(adapter: options.Adapter, json: options.Json = False) -> None:
    """Say what an adapter is: its values by layer and module, its base, and where it came from."""
    from sparseopd.adapter_files.adapter import SparseAdapter
    from sparseopd.masks.layout import layout

    loaded = SparseAdapter.load(adapter)
    rows = layout(loaded.mask)
    facts = _facts(loaded)
    if json:
        known = asdict(loaded.mask.provenance)
        known["base_hashes"] = len(known["base_hashes"])
        return print_json({**facts, "provenance": known, "layout": rows})
    from sparseopd.report import mask_tables

    for line in _description(loaded, facts):
        say(line)
    for table in mask_tables(rows):
        console.print()
        console.print(table)


@adapter_app.command("convert")
def convert_adapter(
    source: options.Source,
    output: options.Output = ...,  # pyright: ignore
    to: options.To = None,
    from_: options.From = None,
    base: options.OtherBase = None,
    rank: options.Rank = None,
    no_masters: options.NoMasters = False,
    json: options.Json = False,
) -> None:
    """Convert an adapter to or from another format, and say what that loses.

    With --no-masters, one of this project's own is written again without its float32 values.
    """
    _check_output(output)
    from sparseopd.adapter_conversion import convert

    with live_progress() as progress:
        done = convert(
            source,
            output,
            to=to,
            format=from_,
            base=base,
            rank=rank,
            no_masters=no_masters,
            progress=progress,
        )
    say(f"{done.k:,} values of {source}: {output}")
    for sentence in done.losses or ["nothing is lost"]:
        explain(sentence)
    if json:
        print_json({**asdict(done), "folder": str(done.folder)})


def _check_output(output: Path) -> None:
    """Refuse a folder that holds files or has no folder to lie in, before anything is read."""
    if len(output.name.encode()) > 200:
        raise RequestError(
            f"the name {output.name[:40]}… is too long for a folder: give a shorter one"
        )
    RunDir.unused(output)
    if not output.absolute().parent.is_dir():
        raise RequestError(
            f"there is no folder {output.parent} to make {output.name} in: make it first"
        )


def _selection(mask: Path | None, density: float | None, k: int | None) -> Selection | None:
    """Choose by how far coordinates moved, if that was asked for."""
    if density is None and k is None:
        return None
    if mask is not None:
        how = f"--density {density:g}" if density is not None else f"--k {k}"
        raise RequestError(f"--mask and {how} both say which values to take: leave one out")
    from sparseopd.selection import build

    return build(selector="topk", density=density, k=k)


def _extracted(made: Extracted) -> dict[str, Any]:
    return {
        **asdict(made),
        "adapter": str(made.adapter),
        "density": made.k / made.numel,
        "bits_per_value": 8 * made.bytes / made.k,
        "exact": not made.lost and not made.rounded,
    }


def _faithfulness(made: Extracted, subject: Subject, masters: bool) -> list[str]:
    """Sentences on how the base with the adapter differs from the tuned checkpoint."""
    base, tuned = subject.base.label, subject.tuned.label
    lines = []
    if not made.lost and not made.rounded:
        lines.append(f"applied to {base}, it gives {tuned}, every weight bit for bit")
    if made.lost:
        lines.append(
            f"{made.lost:,} of the {made.changed:,} changed weights are left out: applied to {base}, "
            f"it gives another model than {tuned}"
        )
    if made.rounded:
        kept = "; float32 masters keep those among its own values" if masters else ""
        lines.append(
            f"{made.rounded:,} weights of {tuned} have bits that the dtype of {base} cannot hold, and "
            f"it gives them rounded{kept}"
        )
    same = made.k - (made.changed - made.lost)
    if same:
        lines.append(f"{same:,} of its values are the base's own: chosen, and not changed")
    return lines


def _facts(adapter: SparseAdapter) -> dict[str, Any]:
    """What `show --json` prints, but for provenance and layout."""
    dtypes = {str(adapter.dtype(name)).removeprefix("torch.") for name in adapter.touched}
    size = _size(adapter)
    return {
        "k": adapter.count(),
        "numel": adapter.mask.numel(),
        "density": adapter.mask.density(),
        "tensors": len(adapter.names),
        "touched": len(adapter.touched),
        "dtypes": sorted(dtypes),
        "bytes": size,
        "bits_per_value": 8 * size / adapter.count(),
        "masters": adapter.has_masters,
        "teacher": adapter.teacher,
        "base_state": adapter.base_state(),
        "result_state": adapter.result_state(),
    }


def _description(adapter: SparseAdapter, facts: dict[str, Any]) -> list[str]:
    """Sentences on what an adapter is, and where it came from."""
    known = adapter.mask.provenance
    revision = f" at {known.revision}" if known.revision else ""
    masters = "and in float32 too" if adapter.has_masters else "without float32 masters"
    settings = ", ".join(f"{key} {value}" for key, value in known.settings.items())
    selector = f"selector {known.selector or 'unknown'}"
    lines = [
        f"{_share(facts['k'], facts['numel'])}, in {facts['touched']:,} of {facts['tensors']:,} tensors",
        f"stored in {' and '.join(facts['dtypes'])}, {masters}: {decimal(facts['bytes'])}, "
        f"{facts['bits_per_value']:.3g} bits a value",
        f"base {known.base or 'unknown'}{revision}, {_state(facts['base_state'])}",
        f"result {_state(facts['result_state'])}",
        f"teacher {adapter.teacher or 'not recorded'}",
        selector + (f" ({settings})" if settings else ""),
    ]
    if known.tuned:
        lines.append(f"values of {known.tuned}")
    if known.steps:
        lines.append(f"{known.steps:,} training steps behind the choice")
    return lines


def _size(adapter: SparseAdapter) -> int:
    """Bytes of the weights file."""
    from sparseopd.adapter_files.format import WEIGHTS
    from sparseopd.pairs.locate import weights_folder

    return (weights_folder(adapter.label) / WEIGHTS).stat().st_size


def _state(digest: str) -> str:
    return f"state {digest[:DIGITS]}" if digest else "state unknown"


def _share(k: int, numel: int) -> str:
    return f"{k:,} new values for {numel:,} coordinates ({100 * k / numel:.3g} %)"


def _list(tensors: dict[str, str], total: int) -> None:
    """Name the tensors that do not fit, as many as a screen holds."""
    for name, what in list(tensors.items())[:LISTED]:
        say(f"{name}: {what}")
    if len(tensors) > LISTED:
        say(f"and {len(tensors) - LISTED:,} more of {total:,} tensors; --json lists all")
