"""From what a user calls a model (folder, hub id, `bundled:…`) to a folder on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from sparseopd.artifacts import RunDir
from sparseopd.errors import PairError, RequestError
from sparseopd.pairs import tiny
from sparseopd.recipe import BUNDLED_PREFIX, Model

FETCHED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
"""What is fetched of a hub model: weights, settings and tokenizer; no pickles, no code."""


def resolve_path(path: str) -> str:
    """Return the local folder behind `bundled:PAIR/student`, or `path` as it is."""
    if not path.startswith(BUNDLED_PREFIX):
        return path
    pair, _, rest = path.removeprefix(BUNDLED_PREFIX).partition("/")
    folder = tiny.folder(pair) / rest
    if not folder.exists():
        raise PairError(f"the bundled pair {pair} has no {rest!r}")
    return str(folder)


def looks_local(path: str) -> bool:
    """Whether a model's name can only be a folder's: a hub id has at most one slash inside."""
    return path.startswith((".", "~", os.sep)) or path.count("/") > 1


def local_folder(model: Model) -> Path:
    """Return the folder of a model that has been loaded: its own, or the hub's cached snapshot."""
    return weights_folder(model.path, model.revision, cached_only=True)


def weights_folder(path: str, revision: str | None = None, *, cached_only: bool = False) -> Path:
    """Return the folder that holds a model's weights, fetched from the hub where `path` is an id.

    Raises `PairError` when there is no such folder and the hub does not have it or is out of reach.
    """
    where = Path(resolve_path(path)).expanduser()
    if where.is_dir():
        return where
    if where.exists():
        raise PairError(f"{path} is a file: give the folder of the model it belongs to")
    if looks_local(path):
        raise PairError(f"there is no model folder {path}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(
            snapshot_download(
                path,
                revision=revision,
                allow_patterns=list(FETCHED),
                local_files_only=cached_only,
            )
        )
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise PairError(
            f"there is no folder {path}, and the hub did not give a model of that id: {reason}"
        ) from error


def checkpoint_of(word: str) -> str:
    """Return the weights behind a word: a run's checkpoint, or the model itself.

    Raises `RequestError` for a run that has none.
    """
    if not RunDir.is_run(word):
        return word
    run = RunDir(word)
    if not run.checkpoint.is_dir():
        raise RequestError(
            f"{word} is a {run.read_facts().kind} run and left no checkpoint: give one of train"
        )
    return str(run.checkpoint)


def revision_of(folder: Path) -> str | None:
    """Return the commit of a folder in the hub's cache, None for any other folder."""
    return folder.name if folder.parent.name == "snapshots" else None
