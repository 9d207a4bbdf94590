"""The data section of a recipe: prompts, answers, images, and what teachers see."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from sparseopd.errors import RecipeError
from sparseopd.ranges import Count, Positive, Seed

RESERVED = (
    "add_generation_prompt",
    "chat_template",
    "conversation",
    "padding",
    "return_dict",
    "return_tensors",
    "tokenize",
    "tools",
)
"""What is said to a chat template anyway, and no variable of one."""


@dataclass(kw_only=True)
class Data:
    """Prompts with, if they can be graded, answers: hub id, JSON(L), Parquet, or `bundled:NAME`.

    A hub id may name a configuration after a colon. Columns may be nested: `reward_model.ground_truth`.
    """

    train: str
    test: str | None = None
    """Held-out prompts. Without it, `holdout` rows are split off `train`."""
    train_split: str = "train"
    test_split: str = "test"
    """Split names, used when the data set comes from the hub."""
    holdout: Count = 256
    holdout_seed: Seed = 0
    """Chooses the rows held out; apart from the recipe's seed, so that every seed trains and is
    tested on the same prompts."""
    prompt: str | None = None
    """Column of the prompt: text or chat messages. Default: `messages`, else `prompt`."""
    answer: str | None = None
    """Column of the reference answer. Default: `answer` if there is one."""
    image: str | None = None
    """Column of the image or images. Default: `images` or `image` if there is one."""
    teacher: str | None = None
    """Column that names each row's teacher, with several `teachers`."""
    teacher_shares: Literal["balanced", "data"] | dict[str, Positive] = "balanced"
    """How much each of several teachers counts, in tokens: alike, as the data has it, or by name."""
    privileged: str | None = None
    """Column of what the teacher alone sees, such as a reference solution."""
    privileged_template: str = (
        "{prompt}\n\nHere is a reference solution:\n{privileged}\n\n"
        "Now solve the problem in your own words."
    )
    """The teacher's last user turn, from the student's and the privileged text."""
    system: str | None = None
    """A system message put before prompts that are plain text."""
    chat_template: dict[str, Any] = field(default_factory=dict)
    """Variables for the chat template, such as enable_thinking: false."""
    grader: str | None = None
    """exact, numeric, math, regex:PATTERN, package.module:function, or none. Default: exact where there
    are answers, else none."""
    limit: Count | None = None
    """Use only the first rows of `train`."""


def check_data(data: Data, teachers: list[str]) -> None:
    """Raise `RecipeError` where teachers and columns contradict each other; `teachers` are the names."""
    if len(teachers) > 1 and data.teacher is None:
        raise RecipeError(
            f"there are {len(teachers)} teachers and nothing says whose a prompt is: name the column with "
            "data.teacher"
        )
    if data.teacher is not None and len(teachers) < 2:
        raise RecipeError(
            "data.teacher does nothing with one teacher: drop it, or name several teachers"
        )
    if isinstance(data.teacher_shares, dict) and set(data.teacher_shares) != set(teachers):
        raise RecipeError(
            f"data.teacher_shares names {', '.join(data.teacher_shares)} and the teachers are "
            f"{', '.join(teachers)}: give each of them a share"
        )
    if data.teacher is None and data.teacher_shares != "balanced":
        raise RecipeError("data.teacher_shares does nothing with one teacher: drop it")
    for name in RESERVED:
        if name in data.chat_template:
            raise RecipeError(f"data.chat_template.{name} is no variable of a template: drop it")
    for name in ("prompt", "privileged"):
        if f"{{{name}}}" not in data.privileged_template:
            raise RecipeError(f"data.privileged_template lacks {{{name}}}: put it where it belongs")
    default = Data.__dataclass_fields__["privileged_template"].default
    if data.privileged is None and data.privileged_template != default:
        raise RecipeError(
            "data.privileged_template does nothing without data.privileged, the column it shows"
        )
