"""The `sparseopd adapter` commands: make, apply, check, look at and convert adapters."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.filesize import decimal

from sparseopd import adapter_options as options
from sparseopd.artifacts import RunDir
from sparseopd.console import console, explain, live_progress, print_json, say
from sparseopd.errors import AdapterMismatchError, RequestError

if TYPE_CHECKING:
    from sparseopd.selection import Selection

adapter_app = typer.Typer(
    help="Make, apply, check, look at and convert adapters.", no_args_is_help=True
)

LISTED = 20
"""Tensors that `verify` names one by one."""


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
    from sparseopd.adapter_words import extracted, faithfulness, share
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
    facts = extracted(made)
    say(
        f"adapter of {share(made.k, made.numel)}: {output}, {decimal(made.bytes)}, "
        f"{facts['bits_per_value']:.3g} bits a value"
    )
    for sentence in faithfulness(made, subject.base.label, subject.tuned.label, masters):
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
    from sparseopd.adapter_requests import check_words

    check_words(base, adapters)
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
    from sparseopd.adapter_requests import check_words

    check_words(base, [adapter])
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
    from sparseopd.adapter_requests import check_words
    from sparseopd.adapter_words import description, legible, stored
    from sparseopd.masks.layout import layout

    check_words(None, [adapter])
    loaded = SparseAdapter.load(adapter)
    rows = layout(loaded.mask)
    facts = stored(loaded)
    if json:
        known = asdict(loaded.mask.provenance)
        known["base_hashes"] = len(known["base_hashes"])
        return print_json({**facts, "provenance": known, "layout": rows})
    from sparseopd.report import mask_tables

    for line in description(loaded, facts):
        say(line)
    for table in mask_tables(legible(rows)):
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
    from sparseopd.adapter_conversion import convert, is_ours
    from sparseopd.adapter_words import converted

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
    say(converted(done, source, is_ours(source)))
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


def _list(tensors: dict[str, str], total: int) -> None:
    """Name the tensors that do not fit, as many as a screen holds."""
    from sparseopd.adapter_files.card_text import one_line

    for name, what in list(tensors.items())[:LISTED]:
        say(f"{one_line(name)}: {what}")
    if len(tensors) > LISTED:
        say(f"and {len(tensors) - LISTED:,} more of {total:,} tensors; --json lists all")
