"""Rebuild one bundled pair from a seed: its data and models, in a few minutes on two cores.

    python -m sparseopd.pairs.tiny.build tiny-arithmetic --seed 0 -o DIR

The models train in fp32 and are saved in bfloat16. On one machine the same seed gives the same
bytes; prompts and images are the same whatever the seed.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from sparseopd.pairs.tiny import arithmetic_pairs, digits_pair, other_tasks

BUILDERS: dict[str, Callable[[Path, int, float], None]] = {
    "tiny-arithmetic": arithmetic_pairs.build_noisy,
    "tiny-arithmetic-sibling": arithmetic_pairs.build_sibling,
    "tiny-arithmetic-hint": arithmetic_pairs.build_hint,
    "tiny-arithmetic-two-teachers": arithmetic_pairs.build_two_teachers,
    "tiny-digits": digits_pair.build,
    "other-tasks": other_tasks.build,
}


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and build the pair it names."""
    parser = argparse.ArgumentParser(prog="python -m sparseopd.pairs.tiny.build")
    parser.add_argument("name", choices=sorted(BUILDERS), help="the pair to build")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and lessons")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--steps-scale", type=float, default=1.0, help="multiplies every number of training steps"
    )
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    BUILDERS[given.name](given.out, given.seed, given.steps_scale)


if __name__ == "__main__":
    main()
