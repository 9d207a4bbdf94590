"""The metadata of a model card: what the hub reads of an adapter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparseopd.adapter_files.card_text import one_line
from sparseopd.artifacts import read_json
from sparseopd.errors import RunFolderError

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

UNKNOWN = "unknown"
"""What the hub calls a licence that nobody stated."""
ADAPTS = "base_model:adapter:"
"""The beginning of a tag that names an adapter's base."""
_LICENSE_ID = re.compile(r"[a-z0-9][a-z0-9.-]*")


def describe(
    data: ModelCardData,
    *,
    base: str,
    tags: Sequence[str],
    license: str | None = None,
    pipeline_tag: str | None = None,
) -> None:
    """Set what the adapter knows, and leave the rest.

    A base that is no hub id is left out, because the hub refuses a card with it (transformers#33922).
    """
    given = data.get("base_model")
    if is_hub_id(base):
        data["base_model"] = base
    elif isinstance(given, str) and not is_hub_id(given):
        data.pop("base_model")  # PEFT writes the folder a base was loaded from
    data["base_model_relation"] = "adapter" if data.get("base_model") else None
    data["library_name"] = "peft"
    data["tags"] = list(dict.fromkeys([*filter(_is_sound, data.tags or []), *tags]))
    data["pipeline_tag"] = data.pipeline_tag or pipeline_tag
    _set_license(data, license)


def license_of(data: ModelCardData) -> str | None:
    """Return the licence's name, None where nobody stated one."""
    name = data.license_name or data.license
    return None if name in (None, UNKNOWN) else str(name)


def _is_sound(tag: object) -> bool:
    """Whether a tag is no local folder, which PEFT tags as the base of an adapter, too."""
    return not str(tag).startswith(ADAPTS) or is_hub_id(str(tag).removeprefix(ADAPTS))


def _set_license(data: ModelCardData, license: str | None) -> None:
    """Set an identifier of the hub or, for any other name, `other` with that name."""
    if license is None:
        data["license"] = data.license or UNKNOWN
        return
    known = _LICENSE_ID.fullmatch(license.lower())
    data["license"] = license.lower() if known else "other"
    data["license_name"] = None if known else one_line(license)
    data["license_link"] = None


def task_of(folder: Path) -> str | None:
    """Return the hub's name of what a model does, by its config.json; None where that is not plain."""
    try:
        config = read_json(folder / "config.json")
        name = config["architectures"][0]
    except (RunFolderError, KeyError, IndexError, TypeError):
        return None
    if str(name).endswith("ForCausalLM"):
        return "text-generation"
    sees = str(name).endswith("ForConditionalGeneration") and "vision_config" in config
    return "image-text-to-text" if sees else None


def is_hub_id(name: str) -> bool:
    """Whether a model's name is one of the hub, and no folder here."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists()
