"""What can be known of a model before its weights are loaded: configuration, tokenizer, dimensions.

Of a hub model only its configuration and tokenizer files are fetched. One that is neither cached nor
within reach is not known, which is no reason against the recipe.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import AutoConfig, GenerationConfig, PretrainedConfig

from sparseopd.errors import PairError
from sparseopd.feasibility.findings import Finding
from sparseopd.feasibility.shapes import ModelShape, shape_of
from sparseopd.pairs import load_processor, resolve_path
from sparseopd.pairs.loading import LOADING_ERRORS, Processor, tokenizer_of
from sparseopd.pairs.locate import looks_local
from sparseopd.recipe import Model

SMALL_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
"""Configurations, tokenizers and chat templates; no weights."""
UNUSED_FILES = ("*.index.json", "onnx/*")


@dataclass(frozen=True)
class Described:
    """A model without weights."""

    name: str
    """What the recipe calls it: student, teacher or teachers.NAME."""
    settings: Model
    config: PretrainedConfig
    processor: Processor
    ends: frozenset[int]
    """Tokens that end a completion: the generation config's and the tokenizer's."""
    shape: ModelShape | None
    """None where transformers cannot build the model without weights."""

    @property
    def template(self) -> str | None:
        """Return the chat template's text."""
        found = getattr(self.processor, "chat_template", None)
        template = found or tokenizer_of(self.processor).chat_template
        return "\n".join(template.values()) if isinstance(template, dict) else template


class _OutOfReachError(Exception):
    """The hub did not answer, or was not asked."""


def describe(name: str, settings: Model) -> Described | Finding:
    """Return what is known of a model, or the finding that says why nothing is."""
    try:
        folder = _small_files(settings)
        return _read(name, replace(settings, path=str(folder), revision=None), settings)
    except _OutOfReachError as reason:
        return Finding("unknown", name, f"not checked: {settings.path} {reason}")
    except PairError as error:
        return Finding("error", name, str(error))


def _read(name: str, local: Model, settings: Model) -> Described:
    try:
        processor = load_processor(local)
    except PairError as error:
        raise PairError(str(error).replace(local.path, settings.path)) from error
    config = AutoConfig.from_pretrained(local.path, trust_remote_code=settings.trust_remote_code)
    try:
        shape = shape_of(config, trust_remote_code=settings.trust_remote_code)
    except (*LOADING_ERRORS, NotImplementedError, IndexError):  # odd code of odd architectures
        shape = None
    return Described(name, settings, config, processor, _ends(local, processor), shape)


def _ends(local: Model, processor: Processor) -> frozenset[int]:
    try:
        declared = GenerationConfig.from_pretrained(local.path).eos_token_id
    except LOADING_ERRORS:
        declared = None
    several = declared if isinstance(declared, list) else [declared]
    ends = [tokenizer_of(processor).eos_token_id, *several]
    return frozenset(end for end in ends if isinstance(end, int))


def _small_files(settings: Model) -> Path:
    """Return the folder of a model's small files, fetched where `path` is a hub id.

    Raises `PairError` where there is no such model, `_OutOfReachError` where that cannot be known.
    """
    where = Path(resolve_path(settings.path)).expanduser()
    if where.is_dir():
        return where
    if where.exists() or looks_local(settings.path):
        raise PairError(f"there is no model folder {settings.path}")
    code = ("*.py",) if settings.trust_remote_code else ()
    try:
        folder = Path(
            snapshot_download(
                settings.path,
                revision=settings.revision,
                allow_patterns=[*SMALL_FILES, *code],
                ignore_patterns=list(UNUSED_FILES),
            )
        )
    except GatedRepoError as error:
        raise PairError(
            f"{settings.path} asks for an agreement: accept it on the hub, and log in with hf auth login"
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise PairError(f"the hub has no model {settings.path}: {_first_line(error)}") from error
    except (HfHubHTTPError, OSError) as error:
        raise _OutOfReachError("is not cached here, and the hub is out of reach") from error
    if not (folder / "config.json").is_file():
        raise _OutOfReachError("is cached without its configuration, and the hub is out of reach")
    return folder


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")
