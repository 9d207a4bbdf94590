"""Where logged steps go besides metrics.jsonl."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import TrainerCallback

from sparseopd.artifacts import RunDir


def without_tensorboard(
    sinks: Sequence[str], run: RunDir
) -> tuple[list[str] | str, list[TrainerCallback]]:
    """Split off TensorBoard, which `Trainer` would write into a folder that is removed at the end.

    Returns what `TrainingArguments.report_to` is to be, and the callbacks that serve the rest.
    """
    own: list[TrainerCallback] = []
    if "tensorboard" in sinks:
        from torch.utils.tensorboard.writer import SummaryWriter
        from transformers.integrations.integration_utils import TensorBoardCallback

        own.append(TensorBoardCallback(SummaryWriter(str(run.tensorboard))))
    return [sink for sink in sinks if sink != "tensorboard"] or "none", own
