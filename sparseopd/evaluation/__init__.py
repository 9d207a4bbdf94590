"""Evaluation: runs and models on the same held-out prompts, with paired intervals.

    runs, models → arms_for → evaluate → Scores → scores.json, report

    arms = arms_for([RunDir("full"), "some/model"], recipe)
    scores = evaluate(arms, recipe)
    scores.save(path)

Every arm samples with the same random numbers, so that differences between arms are the arms' own.
KL is to the teacher as the recipe has it: the one a prompt belongs to, with what it alone sees.
"""

from sparseopd.analysis.agreement import agreement
from sparseopd.evaluation.arms import Arm, arms_for
from sparseopd.evaluation.divergence import divergence
from sparseopd.evaluation.evaluate import evaluate
from sparseopd.evaluation.statistics import bootstrap_mean, bootstrap_ratio
from sparseopd.pairs.sampling import Completion, sample

__all__ = [
    "Arm",
    "Completion",
    "agreement",
    "arms_for",
    "bootstrap_mean",
    "bootstrap_ratio",
    "divergence",
    "evaluate",
    "sample",
]
