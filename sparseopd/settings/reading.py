"""From YAML and `key.sub=value` words to the values a dataclass is validated from, in plain sentences."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from pydantic import ValidationError

from sparseopd.errors import RecipeError

Expand = Callable[[dict[str, Any]], None]
"""Writes shorthands out, so that words can address what is inside them."""


def read_yaml(file: Path, label: str) -> dict[str, Any]:
    """Read a mapping from a YAML file; sentences call it `label`. Raises `RecipeError`."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"cannot read {label}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{label} is not UTF-8 text") from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"{label} is not valid YAML: {reason}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{label} must be a mapping of keys, not {type(values).__name__}")
    return values


def apply_override(
    values: dict[str, Any], override: str, expand: Expand = lambda values: None
) -> None:
    """Set one `key.sub=value` word in nested values. Raises `RecipeError` for a word that is none."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise RecipeError(f"{override!r} is not an override: write key.sub=value")
    *sections, last = key.split(".")
    for section in sections:
        expand(values)
        inner = values.setdefault(section, {})
        if isinstance(inner, str) and sections[0] == "teachers":
            inner = values[section] = {"path": inner}
        if inner is None:
            inner = values[section] = {}
        if not isinstance(inner, dict):
            raise RecipeError(f"{key} cannot be set: {section} is a value, not a section")
        values = inner
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"the value of {key} is not valid YAML: {text!r}") from error


def check_keys(values: Any, kind: type, prefix: str = "") -> None:
    """Refuse unknown keys before pydantic sees them, to name the nearest valid one."""
    if not isinstance(values, dict):
        return
    types = get_type_hints(kind)
    valid = [item.name for item in fields(kind)]  # pyright: ignore[reportArgumentType]
    for key, value in values.items():
        if key not in valid:
            near = difflib.get_close_matches(str(key), valid, n=1, cutoff=0.5)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"valid here: {', '.join(valid)}"
            raise RecipeError(f"unknown recipe key {prefix}{key}: {hint}")
        if is_dataclass(types[key]):
            check_keys(value, types[key], f"{prefix}{key}.")  # pyright: ignore[reportArgumentType]
        for inner in filter(is_dataclass, get_args(types[key])):
            if isinstance(value, list):
                items = list(enumerate(value))
            elif isinstance(value, dict) and get_origin(types[key]) is dict:
                items = list(value.items())
            else:
                items = []
                check_keys(value, inner, f"{prefix}{key}.")  # pyright: ignore[reportArgumentType]
            for place, item in items:
                check_keys(item, inner, f"{prefix}{key}.{place}.")  # pyright: ignore[reportArgumentType]


def sentence(error: ValidationError) -> str:
    """Say the first thing that is wrong with a recipe."""
    first = error.errors()[0]
    key = ".".join(
        str(part) for part in first["loc"] if not str(part).startswith(("function", "constrained"))
    )
    if first["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"the recipe lacks {key}: add it, or give it on the command line"
    message = first["msg"].removeprefix("Input ")
    return f"recipe key {key} is {first['input']!r}, which is not allowed: it {message}"
