"""On-policy distillation: the student learns from the teacher on its own rollouts.

    Recipe → discover → RUN/mask.safetensors        a short full run; its update becomes a mask
    Recipe (+ Mask) → train → RUN/checkpoint        full, or only the masked coordinates

TRL's `DistillationTrainer` generates, scores and divides; `trainer.py` adds what it lacks.
"""

from sparseopd.distill.discover import discover
from sparseopd.distill.train import resume, train

__all__ = ["discover", "resume", "train"]
