"""What does a sparse adapter cost, in bytes and time? Ours beside PEFT's, and beside no adapter at all.

    python benchmarks/adapter.py            runs all parts; writes results/adapter.json (10 minutes)
    python benchmarks/adapter.py --quick    the same on small models, under a minute; writes nothing
    python benchmarks/adapter.py --parts switch disk
    python benchmarks/adapter.py --table    prints the tables of the committed results

size      adapter files a trained value, beside those of SUPERTUNING and SHiRA with the same coordinates,
          and beside the entropy of the mask + 16 bits
switch    from one adapter of 10 % to another, beside LoRA's unmerge + merge, and beside writing k base
          values and k new ones, what a switch must, by index_copy_ with int64 indices that are ready
forward   inference with an adapter, beside the bare model
training  a step, and the bytes that forward saves for backward
disk      an adapter applied to a checkpoint on disk, beside copying its file

All ways of a part take turns in one process, in an order that is shuffled anew every round, on torch's
own number of threads; ratios are medians of ratios within rounds. The parts are in `adapter_*.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from adapter_disk import disk
from adapter_report import bars, table
from adapter_run import forward, training
from adapter_size import size
from adapter_switch import switch
from machine import described
from transformers.utils.logging import disable_progress_bar

from sparseopd.console import quiet_libraries

RESULTS = Path(__file__).parent / "results" / "adapter.json"
LIBRARIES = ("torch", "transformers", "peft", "safetensors")
PARTS: dict[str, Callable[[Path, bool], dict[str, Any]]] = {
    "size": size,
    "switch": switch,
    "forward": forward,
    "training": training,
    "disk": disk,
}


def main() -> None:
    """Run the parts asked for, or show the results there are."""
    given = _arguments()
    quiet_libraries()
    disable_progress_bar()
    kept = not given.quick and given.results.is_file()
    results = json.loads(given.results.read_text()) if given.table or kept else {}
    if not given.table:
        for part in given.parts:
            results[part] = _measured(part, given)
        results |= {
            "machine": described(),
            "threads": torch.get_num_threads(),
            "versions": {name: version(name) for name in LIBRARIES},
        }
        results["bars"] = bars(results)
        if not given.quick:
            given.results.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


def _measured(part: str, given: argparse.Namespace) -> dict[str, Any]:
    when = {"date": date.today().isoformat(), "load_before": round(os.getloadavg()[0], 2)}
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        return {**when, **PARTS[part](Path(folder), given.quick)}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="Small models, few rounds.")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--folder", help="Where to put checkpoints (3 GB). Default: temporary.")
    return parser.parse_args()


if __name__ == "__main__":
    main()
