"""Prompts and graders: what the student is asked, and how its completions are judged.

    recipe.Data → load_prompts → Prompts(train, test, grader)
    grader name → resolve_grader → grader(completion, answer) → bool

    prompts = load_prompts(recipe.data, chat=True)
    prompts.grader("the answer is 12", prompts.test[0]["answer"])

Importing this package loads no torch.
"""

from sparseopd.tasks.graders import GRADERS, Grader, resolve_grader
from sparseopd.tasks.prompts import Prompts, load_prompts

__all__ = ["GRADERS", "Grader", "Prompts", "load_prompts", "resolve_grader"]
