"""What does `sparseopd train` add to TRL's `DistillationTrainer` called directly?

    python benchmarks/overhead.py                  measures; writes results/overhead.json
    python benchmarks/overhead.py --table          prints the table from that file

Full runs of a bundled pair with the recipe's own settings: the same student, teacher, prompts, seed and
optimizer, so that both do the same arithmetic and end in the same weights (checked). "whole" is all of
it, from loading to the written checkpoint; "training" the call of `train` alone. Rounds are interleaved.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from machine import described

from sparseopd.console import quiet_libraries

RESULTS = Path(__file__).parent / "results" / "overhead.json"
PAIRS = ("tiny-arithmetic", "tiny-digits")


def main() -> None:
    """Measure, or print the table of the committed results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if not given.table:
        RESULTS.write_text(json.dumps(measure(given.rounds, given.steps), indent=1) + "\n")
    print(table(json.loads(RESULTS.read_text())))


def measure(rounds: int, steps: int) -> dict[str, Any]:
    """Run both by turns on every pair; the first round warms up and is not counted."""
    quiet_libraries()
    pairs = []
    for pair in PAIRS:
        times: dict[str, list[dict[str, float]]] = {"trl": [], "sparseopd": []}
        for number in range(rounds + 1):
            order = [("trl", by_trl), ("sparseopd", by_sparseopd)]
            weights = []
            for name, run in order if number % 2 else reversed(order):
                with tempfile.TemporaryDirectory() as folder:
                    times[name].append(run(pair, steps, Path(folder) / "run"))
                    weights.append(digest(Path(folder) / "run"))
            assert weights[0] == weights[1], "the two ended in different weights"
        pairs.append({"pair": pair, "times": {name: rows[1:] for name, rows in times.items()}})
    return {
        "date": date.today().isoformat(),
        "machine": described(),
        "steps": steps,
        "rounds": rounds,
        "pairs": pairs,
    }


def by_sparseopd(pair: str, steps: int, folder: Path) -> dict[str, float]:
    """Time `sparseopd train`, as the command calls it."""
    from sparseopd import recipe as recipes
    from sparseopd.distill import train
    from sparseopd.distill.opd import OPDTrainer

    recipe = recipes.load(recipes.find(pair), [f"train.steps={steps}"])
    inner = Timed(OPDTrainer)
    started = time.perf_counter()
    with inner:
        train(recipe, folder)
    return {"whole": time.perf_counter() - started, "training": inner.seconds}


def by_trl(pair: str, steps: int, folder: Path) -> dict[str, float]:
    """Time the script one would write with TRL alone."""
    import torch
    from transformers import Trainer
    from trl.trainer.distillation_config import DistillationConfig
    from trl.trainer.distillation_trainer import DistillationTrainer

    from sparseopd import recipe as recipes
    from sparseopd.pairs import load_model, load_processor
    from sparseopd.tasks import load_prompts

    recipe = recipes.load(recipes.find(pair), [f"train.steps={steps}"])
    inner = Timed(DistillationTrainer)
    started = time.perf_counter()
    assert recipe.teacher is not None
    processor: Any = load_processor(recipe.student)
    student, teacher = load_model(recipe.student), load_model(recipe.teacher)
    config = DistillationConfig(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=recipe.train.batch_size,
        max_completion_length=recipe.rollout.max_new_tokens,
        lr_scheduler_type="constant",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        seed=recipe.seed,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    optimizer = torch.optim.AdamW(student.parameters(), lr=recipe.optimizer.lr, weight_decay=0.0)
    trainer: Trainer = DistillationTrainer(
        model=student,
        teacher_model=teacher,
        args=config,
        train_dataset=load_prompts(recipe.data, chat=True).train,
        processing_class=processor,
        optimizers=(optimizer, None),
    )
    with inner:
        trainer.train()
    student.to(torch.bfloat16).save_pretrained(folder / "checkpoint")  # pyright: ignore
    processor.save_pretrained(folder / "checkpoint")
    return {"whole": time.perf_counter() - started, "training": inner.seconds}


class Timed:
    """Within it, sums the time spent in a trainer's `train`."""

    def __init__(self, trainer: type) -> None:
        self._trainer, self._train, self.seconds = trainer, trainer.train, 0.0

    def __enter__(self) -> None:
        def train(*given: Any, **more: Any) -> Any:
            started = time.perf_counter()
            try:
                return self._train(*given, **more)
            finally:
                self.seconds += time.perf_counter() - started

        self._trainer.train = train

    def __exit__(self, *_: object) -> None:
        self._trainer.train = self._train


def digest(folder: Path) -> str:
    """Identify the weights a run left."""
    from hashlib import blake2b

    return blake2b((folder / "checkpoint" / "model.safetensors").read_bytes()).hexdigest()


def table(results: dict[str, Any]) -> str:
    """Return the medians as markdown."""
    lines = [
        f"| {results['steps']} steps | TRL alone | sparseopd train | ratio | quartiles of the ratio |",
        "| --- | --- | --- | --- | --- |",
    ]
    for found in results["pairs"]:
        for part in ("training", "whole"):
            theirs = [row[part] for row in found["times"]["trl"]]
            ours = [row[part] for row in found["times"]["sparseopd"]]
            ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            lines.append(
                f"| {found['pair']}, {part} | {statistics.median(theirs):.2f} s "
                f"| {statistics.median(ours):.2f} s | {middle:.3f} | {low:.3f} to {high:.3f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
