"""On-policy distillation: the student learns from the teacher on its own rollouts.

    Recipe → discover → RUN/mask.safetensors        a short full run; its update becomes a mask
    Recipe (+ Mask) → train → RUN/checkpoint        full, or only the masked coordinates

Either goes on where it stopped by `resume` and `resume_discovery`. TRL's trainers sample and train;
`trainer.py` gives them the recipe's objective, teachers, batches and optimizer.
"""

from sparseopd.distill.discover import discover
from sparseopd.distill.discover import resume as resume_discovery
from sparseopd.distill.train import resume, train

__all__ = ["discover", "resume", "resume_discovery", "train"]
