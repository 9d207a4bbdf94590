"""Applying an adapter of 10 % to a checkpoint on disk, beside copying the file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from adapter_models import DENSITY
from adapter_rounds import in_turn
from safetensors.torch import save_file
from torch import Tensor

from sparseopd.adapter_files import AdapterWriter
from sparseopd.adapter_files.apply import apply_to_folder
from sparseopd.artifacts import Provenance
from sparseopd.masks.bitmap import Bitmap
from sparseopd.pairs.tensors import tensor_hash

OURS, COPY = "apply_to_folder", "shutil.copyfile"
FILE = "model.safetensors"
LAYERS = {"small": 6, "large": 31}
"""Blocks of Qwen3-0.6B beside an embedding of 32,768 tokens: 0.26 and 1.0 GB."""
QUICK = {"small": 1, "large": 3}
EMBEDDING = (32_768, 1024)
PEAK = """
import sys, threading, time
from pathlib import Path
from machine import forget_peak, resident, settled
from sparseopd.adapter_files.apply import apply_to_folder
own, done = [], threading.Event()
def sample():
    while not done.wait(0.002):
        own.append(resident("RssAnon"))
before, own_before = settled(), resident("RssAnon")
forget_peak()
sampling = threading.Thread(target=sample)
sampling.start()
apply_to_folder(sys.argv[1], [sys.argv[2]], Path(sys.argv[3]))
most = resident("VmHWM")
done.set()
sampling.join()
print(most - before, max(own) - own_before)
"""
"""Bytes that applying adds at most: resident ones, and those of them that are no pages of mapped files,
looked at every 2 ms."""


def disk(folder: Path, quick: bool) -> dict[str, Any]:
    """Time both in turn on the smaller checkpoint; read the peak of applying to both.

    The files that are read are in the page cache, and neither way waits for the disk (no fsync).
    """
    rows = []
    for name, layers in (QUICK if quick else LAYERS).items():
        base, adapter = folder / f"{name}-base", folder / f"{name}-adapter"
        k = _write(base, adapter, layers)
        row: dict[str, Any] = {
            "k": k,
            "bytes": (base / FILE).stat().st_size,
            **_peak(base, adapter, folder),
        }
        row["adapter_bytes"] = sum(path.stat().st_size for path in adapter.iterdir())
        if name == "small":
            row["seconds"] = _timed(base, adapter, folder, 3 if quick else 11)
        rows.append({"checkpoint": name, "layers": layers, **row})
        shutil.rmtree(base)
    return {"density": DENSITY, "rows": rows}


def _timed(base: Path, adapter: Path, folder: Path, rounds: int) -> dict[str, list[float]]:
    target, copied = folder / "applied", folder / "copied"
    ways = {
        OURS: lambda: apply_to_folder(base, [adapter], target),
        COPY: lambda: shutil.copyfile(base / FILE, copied),
    }
    before = {
        OURS: lambda: shutil.rmtree(target, ignore_errors=True),
        COPY: lambda: copied.unlink(missing_ok=True),
    }
    seconds = in_turn(ways, rounds, before=before)
    for clear in before.values():
        clear()
    return seconds


def _peak(base: Path, adapter: Path, folder: Path) -> dict[str, int]:
    """Return what applying adds at most to a process that has imported what it needs."""
    target = folder / "peak"
    ran = subprocess.run(
        [sys.executable, "-c", PEAK, str(base), str(adapter), str(target)],
        cwd=Path(__file__).parent,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    shutil.rmtree(target)
    resident, own = (int(word) for word in ran.stdout.split())
    return {"peak": resident, "peak_own": own}


def _write(base: Path, adapter: Path, layers: int) -> int:
    """Write a bf16 checkpoint of random weights and an adapter of it; return k."""
    base.mkdir()
    torch.manual_seed(0)
    tensors = {
        name: torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02)
        for name, shape in _shapes(layers)
    }
    save_file(tensors, base / FILE, {"format": "pt"})
    (base / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    with AdapterWriter(adapter) as writer:
        for name in sorted(tensors):
            _add(writer, name, tensors.pop(name))
        header = writer.finish(Provenance(selector="random"))
    return sum(entry.count for entry in header.entries)


def _add(writer: AdapterWriter, name: str, weight: Tensor) -> None:
    before, chosen = tensor_hash(weight), torch.rand(weight.shape) < DENSITY
    values = torch.empty(int(chosen.sum()), dtype=weight.dtype).normal_(std=0.02)
    weight[chosen] = values
    bitmap = Bitmap.pack(name, chosen)
    writer.add(name, bitmap, values, base_hash=before, result_hash=tensor_hash(weight))


def _shapes(layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", EMBEDDING
    for layer in range(layers):
        at = f"model.layers.{layer}"
        for name, shape in (
            ("self_attn.q_proj", (2048, 1024)),
            ("self_attn.k_proj", (1024, 1024)),
            ("self_attn.v_proj", (1024, 1024)),
            ("self_attn.o_proj", (1024, 2048)),
            ("mlp.gate_proj", (3072, 1024)),
            ("mlp.up_proj", (3072, 1024)),
            ("mlp.down_proj", (1024, 3072)),
            ("input_layernorm", (1024,)),
            ("post_attention_layernorm", (1024,)),
        ):
            yield f"{at}.{name}.weight", shape
    yield "model.norm.weight", (1024,)
