"""What do masks cost at the scale of real models? Time, memory and bytes, beside what one would do else.

    python benchmarks/masks.py            runs all four parts; writes results/masks.json (10 minutes)
    python benchmarks/masks.py --parts speed files
    python benchmarks/masks.py --table    prints the tables of the committed results

speed   select 10 % of 100 M coordinates, beside torch.topk and beside merely reading and subtracting
memory  `sparseopd mask select` on a sharded bf16 pair of the shapes of Llama-3.2-1B, random values
files   bytes of mask files beside the entropy limit, a bitmap, and the indices of PEFT's SHiRA and
        SUPERTUNING, on uniform masks and on discovered ones
load    one tensor's mask out of a file that covers the 1.2 billion coordinates of that model
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import torch
from machine import described
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparseopd import recipe as recipes
from sparseopd.console import live_progress, quiet_libraries
from sparseopd.masks import Mask, select

RESULTS = Path(__file__).parent / "results" / "masks.json"
RUNS = 5
DENSITIES = (0.001, 0.01, 0.05, 0.2, 0.5)
MEASURED = """
import sys
from sparseopd.cli import app
from sparseopd.console import quiet_libraries
quiet_libraries()
app(standalone_mode=False)
sys.stdout.write(open("/proc/self/status").read())
"""
"""The command line, then what Linux says of the process: VmHWM is its peak resident size. (A child's
rusage would count its parent's memory at the fork.)"""
HUNDRED_MILLION = {f"model.layers.{i}.mlp.up_proj.weight": (5000, 2500) for i in range(8)}


def main() -> None:
    """Run the parts asked for, or print the committed results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--folder", help="Where to put the checkpoints (8 GB). Default: temporary.")
    given = parser.parse_args()
    quiet_libraries()
    if not given.table:
        results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
        for part in given.parts:
            with tempfile.TemporaryDirectory(dir=given.folder) as folder:
                results[part] = {"date": date.today().isoformat(), **PARTS[part](Path(folder))}
            results["machine"] = described()
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(table(json.loads(RESULTS.read_text())))


def speed(folder: Path) -> dict[str, Any]:
    """Time the three ways in turn, several times over, on files that are in the page cache."""
    ways = {"select": _select, "read and subtract": _subtract, "torch.topk": _topk}
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        base, tuned = folder / f"{dtype}-base", folder / f"{dtype}-tuned"
        for path, seed in ((base, 0), (tuned, 1)):
            _write_checkpoint(path, HUNDRED_MILLION, dtype, seed)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for work in (_select, _subtract):
            work(base, tuned)  # warm the page cache and the threads
        for _ in range(RUNS):
            for way, work in ways.items():
                started = time.perf_counter()
                work(base, tuned)
                seconds[way].append(time.perf_counter() - started)
        medians = {way: statistics.median(times) for way, times in seconds.items()}
        rows.append(
            {"dtype": str(dtype).removeprefix("torch."), "seconds": seconds, "median": medians}
        )
    return {"coordinates": 100_000_000, "density": 0.1, "rows": rows}


def memory(folder: Path) -> dict[str, Any]:
    """Run the command line on the pair in a process of its own; read its peak from the system."""
    shapes = dict(_llama_1b())
    for name, seed in (("base", 0), ("tuned", 1)):
        _write_checkpoint(folder / name, shapes, torch.bfloat16, seed, shard=1 << 29)
    words = ["mask", "select", str(folder / "base"), str(folder / "tuned"), "-o", str(folder / "m")]
    started = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, "-c", MEASURED, *words], check=True, stdout=subprocess.PIPE, text=True
    )
    seconds = time.perf_counter() - started
    status = dict(line.split(":", 1) for line in ran.stdout.splitlines())
    mask = Mask.load(folder / "m")
    return {
        "coordinates": mask.numel(),
        "k": mask.count(),
        "pair_bytes": sum(path.stat().st_size for path in folder.glob("*/*.safetensors")),
        "shards": len(list(folder.glob("*/*.safetensors"))),
        "peak_resident_bytes": 1024 * int(status["VmHWM"].split()[0]),
        "swapped_bytes": 1024 * int(status["VmSwap"].split()[0]),
        "seconds": seconds,
        "mask_bytes": (folder / "m").stat().st_size,
    }


def files(folder: Path) -> dict[str, Any]:
    """Measure whole files, header included."""
    rows = []
    base = folder / "base"
    _write_checkpoint(base, HUNDRED_MILLION, torch.bfloat16, 0)
    for density in DENSITIES:
        mask = select(base, selector="random", density=density)
        rows.append(_file_row(f"uniform {100 * density:g} %", mask, folder))
    for name, recipe in _discoveries(folder):
        from sparseopd.distill import discover

        with live_progress() as progress:
            run = discover(recipe, folder / name, progress=progress)
        rows.append(_file_row(f"discovered, {name}", Mask.load(run.mask), folder))
    return {"rows": rows, "index_bytes_per_coordinate": _peft_index_bytes()}


def load(folder: Path) -> dict[str, Any]:
    """Open the file and load one tensor, several times, in one process."""
    shapes = dict(_llama_1b())
    generator = torch.Generator().manual_seed(0)
    drawn = {name: (torch.rand(shape, generator=generator) < 0.1) for name, shape in shapes.items()}
    Mask.from_tensors(drawn).save(folder / "m")
    numel = sum(math.prod(shape) for shape in shapes.values())
    del drawn
    rows = []
    for name in ("model.layers.7.mlp.up_proj.weight", "model.embed_tokens.weight"):
        opened, loaded = [], []
        for _ in range(RUNS):
            started = time.perf_counter()
            mask = Mask.load(folder / "m")
            opened.append(time.perf_counter() - started)
            started = time.perf_counter()
            mask[name]
            loaded.append(time.perf_counter() - started)
        rows.append(
            {
                "tensor": name,
                "coordinates": math.prod(shapes[name]),
                "open_seconds": opened,
                "load_seconds": loaded,
            }
        )
    return {"coordinates": numel, "density": 0.1, "rows": rows}


def _select(base: Path, tuned: Path) -> None:
    select(base, tuned, selector="topk", density=0.1)


def _subtract(base: Path, tuned: Path) -> None:
    for before, after in _tensors(base, tuned):
        _ = after - before


def _topk(base: Path, tuned: Path) -> None:
    change = [
        (after.float() - before.float()).abs().flatten() for before, after in _tensors(base, tuned)
    ]
    together = torch.cat(change)
    torch.topk(together, len(together) // 10)


def _tensors(base: Path, tuned: Path) -> Iterator[tuple[Tensor, Tensor]]:
    name = "model.safetensors"
    with safe_open(base / name, "pt") as one, safe_open(tuned / name, "pt") as other:
        for key in one.keys():
            yield one.get_tensor(key), other.get_tensor(key)


def _write_checkpoint(
    folder: Path,
    shapes: dict[str, tuple[int, ...]],
    dtype: torch.dtype,
    seed: int,
    shard: int | None = None,
) -> None:
    """Write random weights of std .02; seed 1 adds a dense update of std 1e-4 to those of seed 0.

    `shard` is the most bytes a file may have; without it there is one file.
    """
    folder.mkdir(parents=True)
    numbers = {name: number for number, name in enumerate(shapes)}
    groups = _shards(shapes, dtype, shard)
    index: dict[str, str] = {}
    for number, names in enumerate(groups, 1):
        file = (
            f"model-{number:05}-of-{len(groups):05}.safetensors" if shard else "model.safetensors"
        )
        save_file(
            {name: _weight(shapes[name], numbers[name], dtype, seed) for name in names},
            folder / file,
        )
        index |= dict.fromkeys(names, file)
    if shard:
        text = json.dumps({"metadata": {}, "weight_map": index})
        (folder / "model.safetensors.index.json").write_text(text)


def _shards(
    shapes: dict[str, tuple[int, ...]], dtype: torch.dtype, shard: int | None
) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    size = 0
    for name, shape in shapes.items():
        own = math.prod(shape) * dtype.itemsize
        if shard and groups[-1] and size + own > shard:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += own
    return groups


def _weight(shape: tuple[int, ...], number: int, dtype: torch.dtype, seed: int) -> Tensor:
    weight = (_normal(shape, number) * 0.02).to(dtype)
    if not seed:
        return weight
    return (weight.float() + _normal(shape, 10_000 * seed + number) * 1e-4).to(dtype)


def _normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _llama_1b() -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors of Llama-3.2-1B, whose head is tied."""
    yield "model.embed_tokens.weight", (128_256, 2048)
    for layer in range(16):
        at = f"model.layers.{layer}"
        for name, rows in (("q", 2048), ("k", 512), ("v", 512), ("o", 2048)):
            yield f"{at}.self_attn.{name}_proj.weight", (rows, 2048)
        for name, shape in (("gate", (8192, 2048)), ("up", (8192, 2048)), ("down", (2048, 8192))):
            yield f"{at}.mlp.{name}_proj.weight", shape
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{at}.{name}.weight", (2048,)
    yield "model.norm.weight", (2048,)


def _discoveries(folder: Path) -> Iterator[tuple[str, recipes.Recipe]]:
    """The bundled recipes, and a wider student of the same vocabulary with weights drawn at random."""
    for name in ("tiny-arithmetic", "tiny-digits", "tiny-arithmetic-sibling"):
        yield name, recipes.load(recipes.find(name))
    student, teacher = _wide_pair(folder)
    settings = [
        f"student={student}", f"teacher={teacher}", "discover.steps=8", "train.batch_size=8",
    ]  # fmt: skip
    yield "wide student", recipes.load(recipes.find("tiny-arithmetic"), settings)


def _wide_pair(folder: Path) -> tuple[Path, Path]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from sparseopd.pairs import resolve_path

    narrow = resolve_path("bundled:tiny-arithmetic/student")
    config = AutoConfig.from_pretrained(narrow)
    for key, value in {
        "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8,
        "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 64, "layer_types": None,
    }.items():  # fmt: skip
        setattr(config, key, value)
    config.layer_types = ["full_attention"] * 8
    for seed, name in enumerate(("student", "teacher")):
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / f"wide-{name}")
        AutoTokenizer.from_pretrained(narrow).save_pretrained(folder / f"wide-{name}")
    return folder / "wide-student", folder / "wide-teacher"


def _file_row(name: str, mask: Mask, folder: Path) -> dict[str, Any]:
    mask.save(folder / "m")
    size, numel, density = (folder / "m").stat().st_size, mask.numel(), mask.density()
    with (folder / "m").open("rb") as file:
        header = 8 + int.from_bytes(file.read(8), "little")
    entropy = -density * math.log2(density) - (1 - density) * math.log2(1 - density)
    return {
        "mask": name,
        "coordinates": numel,
        "k": mask.count(),
        "bytes": size,
        "header_bytes": header,
        "entropy_bytes": entropy * numel / 8,
        "bitmap_bytes": numel / 8,
    }


def _peft_index_bytes() -> dict[str, float]:
    """Index bytes a coordinate as PEFT saves them, read off adapters of one layer."""
    from peft import ShiraConfig, SupertuningConfig, get_peft_model, get_peft_model_state_dict
    from torch import nn

    def measure(config: Any, index: str) -> float:
        model = get_peft_model(nn.Sequential(nn.Linear(64, 64)), config)
        state = get_peft_model_state_dict(model)
        indices = next(value for key, value in state.items() if index in key)
        values = next(value for key, value in state.items() if "ind" not in key)
        return indices.numel() * indices.element_size() / values.numel()

    return {
        "SHiRA": measure(ShiraConfig(r=4, target_modules=["0"]), "indices"),
        "SUPERTUNING": measure(
            SupertuningConfig(target_modules=["0"], save_precomputed_indices=True), "indices"
        ),
    }


def table(results: dict[str, Any]) -> str:
    """Write the markdown tables of whatever parts there are."""
    return "\n\n".join(TABLES[part](results[part]) for part in TABLES if part in results)


def _speed_table(part: dict[str, Any]) -> str:
    lines = [
        "| 100 M coordinates, 10 % | select | read and subtract | torch.topk | topk / select | select / read |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in part["rows"]:
        median = row["median"]
        own, read, topk = (median[way] for way in ("select", "read and subtract", "torch.topk"))
        lines.append(
            f"| {row['dtype']} pair | {own:.2f} s | {read:.3f} s | {topk:.1f} s | {topk / own:.0f} × | "
            f"{own / read:.1f} × |"
        )
    return "\n".join(lines)


def _memory_table(part: dict[str, Any]) -> str:
    return (
        f"`mask select` on a bf16 pair of {part['coordinates']:,} coordinates "
        f"({part['pair_bytes'] / 2**30:.1f} GiB in {part['shards']} shards): peak resident "
        f"{part['peak_resident_bytes'] / 2**30:.2f} GiB, {part['seconds']:.0f} s, swapped out {part['swapped_bytes']} B."
    )


def _files_table(part: dict[str, Any]) -> str:
    indices = part["index_bytes_per_coordinate"]
    lines = [
        "| mask | coordinates | file | of min(entropy, bitmap) | bits a coordinate | "
        + " | ".join(f"{peer} indices" for peer in indices) + " |",
        "| --- | --- | --- | --- | --- |" + " --- |" * len(indices),
    ]  # fmt: skip
    for row in part["rows"]:
        limit = min(row["entropy_bytes"], row["bitmap_bytes"])
        peers = " | ".join(f"{row['k'] * each / row['bytes']:.1f} ×" for each in indices.values())
        lines.append(
            f"| {row['mask']} | {row['coordinates']:,} | {row['bytes']:,} B | "
            f"{row['bytes'] / limit:.3f} | {8 * row['bytes'] / row['coordinates']:.3f} | {peers} |"
        )
    return "\n".join(lines)


def _load_table(part: dict[str, Any]) -> str:
    lines = [
        f"| one tensor of a {part['coordinates']:,}-coordinate file | coordinates | open | load |",
        "| --- | --- | --- | --- |",
    ]
    for row in part["rows"]:
        opened, loaded = (
            1000 * statistics.median(row[key]) for key in ("open_seconds", "load_seconds")
        )
        lines.append(
            f"| {row['tensor']} | {row['coordinates']:,} | {opened:.1f} ms | {loaded:.1f} ms |"
        )
    return "\n".join(lines)


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "speed": speed,
    "memory": memory,
    "files": files,
    "load": load,
}
TABLES = {
    "speed": _speed_table,
    "memory": _memory_table,
    "files": _files_table,
    "load": _load_table,
}

if __name__ == "__main__":
    main()
