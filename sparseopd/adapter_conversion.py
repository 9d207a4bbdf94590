"""What `sparseopd adapter convert` does: find an adapter's format and its base, and convert it.

SOURCE of our own      to a foreign format, or to ours without float32 masters
SOURCE of another      to our own, with a card
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapter_files.card import write_card
from sparseopd.adapter_files.card_metadata import task_of
from sparseopd.adapter_files.convert import FORMATS, OURS, Converted, detect, export, import_
from sparseopd.adapter_files.convert.plain import has_header
from sparseopd.adapter_files.format import CARD, CONFIG, WEIGHTS
from sparseopd.adapter_files.slim import without_masters
from sparseopd.artifacts import Progress, read_json
from sparseopd.errors import PairError, RequestError, RunFolderError
from sparseopd.pairs.folder import FolderTensors
from sparseopd.pairs.locate import weights_folder
from sparseopd.pairs.tensors import Tensors, open_tensors

WITHOUT_BASE = ("coo", "vllm-patch")
"""Formats of new values, which need no base to be written."""


def convert(
    source: str,
    output: Path,
    *,
    to: str | None = None,
    format: str | None = None,
    base: str | None = None,
    rank: int | None = None,
    no_masters: bool = False,
    progress: Progress | None = None,
) -> Converted:
    """Convert an adapter to the format `to`, by default our own, from one that is found out by default.

    The base is the one given, else the one that the adapter names. Raises `AdapterError` for what cannot
    be converted, `RequestError` for an option that would do nothing.
    """
    kind = _kind(source, format)
    to = to or (OURS if kind != OURS or no_masters else None)
    _check_conversion(source, kind, to, rank, no_masters)
    if kind != OURS:
        return _imported(source, base, output, kind, progress)
    adapter = SparseAdapter.load(source)
    if to is None or to == OURS:
        return _slim(adapter, output)
    return export(adapter, _base_for(adapter, base, to), output, to, rank=rank, progress=progress)


def is_ours(source: str) -> bool:
    """Whether a folder or hub id holds an adapter of this format."""
    if Path(source).expanduser().is_file():
        return False
    return has_header(weights_folder(source) / WEIGHTS)


def _kind(source: str, given: str | None) -> str:
    """Return the format of a source. Raises `RequestError` where one is given and only one of the two is ours."""
    if is_ours(source):
        found = OURS
    elif given not in (None, OURS):
        return given
    else:
        found = detect(source)
    if given not in (None, found):
        raise RequestError(
            f"{source} is of the format {found}, not {given}: give --from {found}, or leave --from out"
        )
    return found


def _check_conversion(
    source: str, kind: str, to: str | None, rank: int | None, no_masters: bool
) -> None:
    if no_masters and (kind != OURS or to != OURS):
        raise RequestError(
            "--no-masters is for an adapter of this project's own that stays one: leave it out, no "
            "other format has any"
        )
    if rank is not None and to != "lora":
        raise RequestError(f"--rank {rank} is for --to lora: leave it out, other formats have none")
    if kind == OURS and not no_masters and to in (None, OURS):
        raise RequestError(
            f"{source} is a sparseopd adapter already: name what to make of it with --to, one of "
            f"{', '.join(name for name, one in FORMATS.items() if one.export)}"
        )
    if kind != OURS and to != OURS:
        raise RequestError(
            f"{source} is of the format {kind}, which becomes {to} in two steps: convert it to {OURS}, "
            "then that"
        )


def _slim(adapter: SparseAdapter, output: Path) -> Converted:
    """Write an adapter without masters; one that came without its card gets a new one."""
    without_masters(adapter, output)
    if not (output / CARD).is_file():
        write_card(output, SparseAdapter.load(output.absolute()))
    losses = ["the float32 masters are left out; the values in the base's dtype are the same"]
    return Converted(folder=output, format=OURS, k=adapter.count(), losses=losses)


def _imported(
    source: str, base: str | None, output: Path, kind: str, progress: Progress | None
) -> Converted:
    """Read a foreign adapter, with a card for what it has become."""
    named = base or _named_base(source)
    if named is None:
        raise RequestError(f"{source} does not name the model it belongs to: give it with --base")
    try:
        folder = weights_folder(named)
    except PairError as error:
        if base is not None:
            raise
        raise RequestError(
            f"the base {named} that {source} names is not here: give it with --base"
        ) from error
    done = import_(source, named, output, kind, progress)
    write_card(output, SparseAdapter.load(output.absolute()), pipeline_tag=task_of(folder))
    return done


def _named_base(source: str) -> str | None:
    """Return the base that a PEFT adapter names; other formats name none."""
    if Path(source).expanduser().is_file():
        return None
    with suppress(RunFolderError, AttributeError):
        return read_json(weights_folder(source) / CONFIG).get("base_model_name_or_path")
    return None


def _base_for(adapter: SparseAdapter, given: str | None, to: str) -> Tensors | None:
    """Open the base to export an adapter with, None for a format that holds no differences from it."""
    known = adapter.mask.provenance
    if given is not None:
        return open_tensors(given)
    if to in WITHOUT_BASE:
        return None
    if known.base:
        with suppress(PairError):
            folder = weights_folder(known.base, known.revision, cached_only=True)
            return FolderTensors(folder, label=known.base)
    raise RequestError(
        f"the base {known.base or 'of ' + adapter.label} is not here, and {to} holds differences from it: "
        "give it with --base"
    )
