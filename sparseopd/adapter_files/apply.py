"""`apply_to_folder`: a base's folder and adapters to a new folder, streamed, no model loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapter_files.chain import Chain
from sparseopd.adapter_files.rewrite import Job, Rewritten, rewrite
from sparseopd.adapter_files.shards import Span, copy_others, shards, spans
from sparseopd.artifacts import Progress, RunDir, folder_written_whole
from sparseopd.pairs.folder import FolderTensors
from sparseopd.pairs.locate import weights_folder
from sparseopd.pairs.tensors import stored_hash, tensor_hash


@dataclass(frozen=True)
class Applied:
    """A checkpoint that was made from a base and adapters."""

    folder: Path
    adapters: int
    """How many were applied, one after another."""
    k: int
    """Values written, those of every adapter counted."""
    tensors: int
    """Tensors of the base with at least one of them."""
    rounded: int
    """Values that lost bits, because the base has a narrower dtype than an adapter."""
    verified: bool
    """Whether every tensor of the base had a hash to be checked against."""
    bytes: int
    """Size of the weights."""
    left_out: list[str]
    """Files of the base's folder that were not copied: pickles, code, other weights."""


def apply_to_folder(
    base: str | Path,
    adapters: Sequence[str | Path],
    output: Path,
    *,
    progress: Progress | None = None,
) -> Applied:
    """Write the checkpoint that adapters make of a base, in memory that does not grow with it.

    Everything that no adapter changes keeps its bits. Several adapters are a chain, such as the patches
    between the checkpoints of a run: each is checked against what those before it leave, and nothing
    appears under the output's name unless every tensor was what its adapter says it must be.

    Args:
        base: folder of (sharded) safetensors, hub id or `bundled:…`; not written to.
        adapters: folders or hub ids, in the order in which they are applied.
        output: the new folder; it must not exist, or be empty.
        progress: called with bytes written.

    Raises `AdapterMismatchError` naming the tensors for another base, or for a patch that is missing or
    out of order; `AdapterFileError` for a damaged adapter; `RunFolderError` if the folder cannot be
    written.
    """
    target = RunDir.unused(output).path
    folder = weights_folder(str(base))
    opened = FolderTensors(folder, label=str(base))
    chain = Chain([SparseAdapter.load(adapter) for adapter in adapters])
    chain.check_fits(opened)
    for adapter in chain.adapters:
        adapter.check_sums()  # before anything is written; the base is checked while it is copied
    jobs = {file: _jobs(folder, file, opened, chain) for file in shards(folder)}
    with folder_written_whole(target) as temporary:
        done = _run(jobs, folder, temporary, chain, progress)
        left_out = copy_others(folder, temporary)
    return Applied(
        folder=target,
        adapters=len(chain.adapters),
        k=sum(one.k for one in done),
        tensors=sum(one.k > 0 for one in done),
        rounded=sum(one.rounded for one in done),
        verified=all(chain.stages(name)[0].expected for name in opened.keys()),
        bytes=sum(each[-1].span.stop for each in jobs.values()),
        left_out=left_out,
    )


def _run(
    jobs: Mapping[str, Sequence[Job]],
    folder: Path,
    output: Path,
    chain: Chain,
    progress: Progress | None,
) -> list[Rewritten]:
    """Write shard by shard, and return what became of the base's tensors.

    Raises `AdapterMismatchError` or `AdapterFileError` for tensors that were not as expected.
    """
    written, total = 0, sum(each[-1].span.stop for each in jobs.values())

    def note(size: int) -> None:
        nonlocal written
        written += size
        if progress is not None:
            progress("apply", written, total, "bytes")

    done: dict[str, Rewritten] = {}
    for file, each in jobs.items():
        done |= rewrite(folder / file, output / file, each, chain, note)
    chain.check_found({name: one.wrong for name, one in done.items() if one.wrong is not None})
    # The values of a repeated head are those of its embedding, which are counted there.
    own = {job.name for each in jobs.values() for job in each}
    return [one for name, one in done.items() if name in own]


def _jobs(folder: Path, file: str, base: FolderTensors, chain: Chain) -> list[Job]:
    """Return all that a shard consists of, in order."""
    names, touched = set(base.keys()), {name for one in chain.adapters for name in one.touched}
    jobs = []
    for span in spans(folder, file):
        known = span.name in names
        jobs.append(Job(span, span.name if known else _repeated(folder, span, base, touched)))
    return jobs


def _repeated(folder: Path, span: Span, base: FolderTensors, touched: set[str]) -> str | None:
    """Return the embedding that an output head repeats, where the config ties them and it will change."""
    if span.dtype is None or not span.name.endswith("lm_head.weight"):
        return None
    same = [
        name
        for name in sorted(touched)
        if base.shape(name) == span.shape and base.dtype(name) == span.dtype
    ]
    if not same:
        return None
    with safe_open(folder / span.file, framework="pt") as content:
        repeated = tensor_hash(content.get_tensor(span.name))
    return next((name for name in same if stored_hash(base, name) == repeated), None)
