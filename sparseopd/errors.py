"""The errors a user of this package can cause, each carrying one sentence that repairs it.

The sentence says what was wrong, with which value, and what to do. The command line prints it
without a traceback and leaves with `exit_code`: 2 when the request was wrong, 1 when the work failed.
"""

from __future__ import annotations


class SparseOPDError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 1


class RequestError(SparseOPDError):
    """The request cannot be carried out as it stands: a wrong value, path or combination."""

    exit_code = 2


class RecipeError(RequestError):
    """A recipe has an unknown key, a value out of range or settings that contradict each other."""


class DataError(RequestError):
    """Prompts are missing, empty, or lack a column that the recipe names."""


class PairError(RequestError):
    """A model cannot be loaded, or student and teacher do not fit each other."""


class RunFolderError(RequestError):
    """A run folder is in the way, incomplete, or cannot be written."""


class MaskError(RequestError):
    """A mask cannot be made, combined or read as asked."""


class MaskFileError(MaskError):
    """A mask file is truncated, altered, of another format or inconsistent."""


class MaskMismatchError(MaskError):
    """A mask belongs to another model: tensors are missing, differ in shape or in content."""

    def __init__(self, sentence: str, tensors: dict[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.tensors = tensors or {}
        """Every tensor that does not fit, and what is wrong with it."""


class AdapterError(RequestError):
    """An adapter cannot be made, applied or converted as asked."""


class AdapterFileError(AdapterError):
    """An adapter's file is truncated, altered, of another format or inconsistent."""


class AdapterMismatchError(AdapterError):
    """An adapter belongs to another base: tensors are missing, differ in shape or in content."""

    def __init__(self, sentence: str, tensors: dict[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.tensors = tensors or {}
        """Every tensor that does not fit, and what is wrong with it."""


class AnalysisError(RequestError):
    """Checkpoints cannot be analysed as asked: not siblings, not finite, or a wrong setting."""


class OptimizerError(RequestError):
    """A masked optimizer cannot be built over these parameters or used this way."""


class TrainingError(SparseOPDError):
    """Training went wrong: a non-finite gradient, or a weight changed outside the mask."""


class MaskLeakError(TrainingError):
    """A checkpoint differs from its source outside the mask: a defect of this package."""


class Interrupted(SparseOPDError):
    """A signal ended a run early, at a state that was saved; the sentence says how to go on."""

    exit_code = 130
