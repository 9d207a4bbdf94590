"""Adapters from and to the formats of others; what a conversion loses is said, with its amount.

    converted = export(SparseAdapter.load("adapter"), "base", Path("shira"), "shira")
    converted = import_("shira", "base", Path("adapter"))
    converted.losses     # ["SHiRA holds linear layers alone, so 3,210 of 51,200 values (6.27 %) are …"]

None of the formats says which base it belongs to, so it is given, and an exported adapter checked
against it where differences from it are written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapter_files.convert import (
    changes,
    coo,
    lora,
    lt_sft,
    shira,
    supertuning,
    vllm_patch,
)
from sparseopd.adapter_files.convert.changes import Change
from sparseopd.adapter_files.convert.peft_folder import read_config
from sparseopd.adapter_files.convert.plain import format_of, has_header
from sparseopd.adapter_files.convert.result import Converted, Outcome
from sparseopd.adapter_files.format import CONFIG, PEFT_TYPE, WEIGHTS
from sparseopd.artifacts import Progress, RunDir, folder_written_whole
from sparseopd.errors import AdapterError
from sparseopd.pairs.locate import weights_folder
from sparseopd.pairs.tensors import Source, Tensors, open_tensors

__all__ = ["FORMATS", "OURS", "Converted", "Format", "detect", "export", "import_"]


@dataclass(frozen=True)
class Format:
    """A format, and what can be done with it."""

    title: str
    """What to call it in a sentence."""
    export: Callable[..., Outcome] | None = None
    """Writes an adapter's values: (adapter, base, folder, progress)."""
    read: Callable[[Path, Source, Tensors], Change] | None = None
    """Opens one: (its folder or file, the base as it was given, the base)."""


OURS = "sparse"
"""The name of our own format, which `import_` writes and `export` reads."""

FORMATS: dict[str, Format] = {
    OURS: Format("a sparseopd adapter"),
    "shira": Format(shira.TITLE, shira.export, shira.read),
    "supertuning": Format(supertuning.TITLE, supertuning.export, supertuning.read),
    "lora": Format(lora.TITLE, lora.export, lora.read),
    "vllm-patch": Format(vllm_patch.TITLE, vllm_patch.export, vllm_patch.read),
    "coo": Format(coo.TITLE, coo.export, coo.read),
    "lt-sft": Format(lt_sft.TITLE, None, lt_sft.read),
}
_PEFT_TYPES = {"SHIRA": "shira", "SUPERTUNING": "supertuning", "LORA": "lora", PEFT_TYPE: OURS}
_METADATA = {coo.FORMAT: "coo", vllm_patch.FORMAT: "vllm-patch"}


def export(
    adapter: SparseAdapter,
    base: Source | None,
    output: Path,
    format: str,
    *,
    rank: int | None = None,
    progress: Progress | None = None,
) -> Converted:
    """Write an adapter in another format.

    Args:
        base: the checkpoint it was made for, or that model in memory; coo and vllm-patch hold new
            values and need none. PEFT's formats need its config.json, and transformers.
        output: a folder that is not there yet, or empty.
        rank: of LoRA, 16 by default.

    Raises `AdapterError` for a format that cannot hold it, and `AdapterMismatchError` for another base.
    """
    chosen = _format(format)
    if chosen.export is None:
        raise AdapterError(
            f"{adapter.label} cannot be converted to {format}: choose "
            f"{', '.join(name for name, one in FORMATS.items() if one.export)}"
        )
    if rank is not None and format != "lora":
        raise AdapterError(f"a rank of {rank} was given, and {format} has none: leave it out")
    options = {} if rank is None else {"rank": rank}
    folder = RunDir.unused(output).path
    with folder_written_whole(folder) as temporary:
        outcome = chosen.export(adapter, base, temporary, progress, **options)
    losses = [*outcome.losses, *_masters(adapter)]
    return Converted(folder=folder, format=format, **{**vars(outcome), "losses": losses})


def import_(
    source: str | Path,
    base: Source,
    output: Path,
    format: str | None = None,
    progress: Progress | None = None,
) -> Converted:
    """Write one of our adapters that does to `base` what a foreign adapter does.

    The new values are bit for bit what the format's own library makes of the weights, on the CPU; a
    product of LoRA may be rounded otherwise there.

    Args:
        source: its folder, its file, or a hub id.
        base: the checkpoint it belongs to, or that model in memory.
        output: a folder that is not there yet, or empty.
        format: of the source; found out by default.

    Raises `AdapterError` for a source that is damaged, of an unknown kind, or does not fit the base.
    """
    path = _located(source)
    name = format or detect(path)
    chosen = _format(name)
    if name == OURS and (found := detect(path)) != OURS:
        raise AdapterError(f"{source} is of the format {found}, not {OURS}: name that, or none")
    if chosen.read is None:
        raise AdapterError(
            f"{source} is {chosen.title} already: name the format to convert it to, one of "
            f"{', '.join(name for name, one in FORMATS.items() if one.export)}"
        )
    folder, tensors = RunDir.unused(output).path, open_tensors(base)
    change = chosen.read(path, base, tensors)
    origin = changes.origin(base, tensors, str(source), chosen.title)
    k = changes.write(change, tensors, folder, origin, progress)
    return Converted(folder=folder, format=name, k=k, losses=change.losses())


def detect(source: str | Path) -> str:
    """Return the name of an adapter's format. Raises `AdapterError` if it is none of `FORMATS`."""
    path = _located(source)
    if path.name == lt_sft.FILE or (path / lt_sft.FILE).is_file():
        return "lt-sft"
    if (path / CONFIG).is_file():
        kind = read_config(path).get("peft_type")
        if kind not in _PEFT_TYPES:
            raise AdapterError(
                f"{source} is a PEFT adapter of the type {kind}, which is none of "
                f"{', '.join(_PEFT_TYPES)}: merge it with PEFT, and extract an adapter from the result"
            )
        return _PEFT_TYPES[kind]
    files = [path] if path.is_file() else [path / coo.FILE, path / vllm_patch.FILE]
    for file in files:
        if format_of(file) in _METADATA:
            return _METADATA[format_of(file)]
    if path.is_file() and (
        has_header(path) or (path.name in (WEIGHTS, CONFIG) and (path.parent / CONFIG).is_file())
    ):
        raise AdapterError(
            f"{source} is one file of an adapter: give the folder that holds it, {path.parent}"
        )
    raise AdapterError(
        f"{source} is an adapter of no known format: name it, one of "
        f"{', '.join(name for name, one in FORMATS.items() if one.read)}"
    )


def _located(source: str | Path) -> Path:
    path = Path(source).expanduser()
    return path if path.is_file() else weights_folder(str(source))


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise AdapterError(f"there is no format {name!r}: choose {', '.join(FORMATS)}")
    return FORMATS[name]


def _masters(adapter: SparseAdapter) -> list[str]:
    """Say how many float32 masters stay behind: only our own format has any."""
    if not adapter.has_masters:
        return []
    counts = [adapter.count(name) for name in adapter.touched if adapter.masters(name) is not None]
    return [f"the float32 masters of {sum(counts):,} values are left out"]
