"""The bundled student/teacher pairs: small enough for a laptop, real enough to learn from.

Each is a folder of Hugging Face models and two prompt files, `train` and `test`, made by
`python -m sparseopd.pairs.tiny.build NAME -o DIR`:

    tiny-arithmetic/                student/, teacher/    a noisy student, a larger teacher
    tiny-arithmetic-sibling/        student/, teacher/    a student without borrowing, itself taught on
    tiny-arithmetic-hint/           student/              the same gap; closed where it sees the solution
    tiny-arithmetic-two-teachers/   sum/, difference/     two teachers of the first pair's student
    tiny-digits/                    student/, teacher/    a vision-language pair on 8x8 digits
    other-tasks/                    no models             prompts that none of the pairs is about

Importing this package loads no torch; only the build modules inside it do.
"""

from pathlib import Path

from sparseopd.errors import RequestError

BUNDLED: tuple[str, ...] = (
    "tiny-arithmetic",
    "tiny-arithmetic-sibling",
    "tiny-arithmetic-hint",
    "tiny-arithmetic-two-teachers",
    "tiny-digits",
)

PROMPTS = ("other-tasks",)
"""Folders of prompts without models."""


def folder(name: str) -> Path:
    """Return the folder of one bundled pair, or of bundled prompts.

    Raises:
        RequestError: no pair of that name is bundled.
    """
    if name not in BUNDLED + PROMPTS:
        raise RequestError(
            f"no bundled pair is called {name!r}: choose one of {', '.join(BUNDLED)}"
        )
    return Path(__file__).parent / name


__all__ = ["BUNDLED", "PROMPTS", "folder"]
