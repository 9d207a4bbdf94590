"""The command line, called in this process as a user would call it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from sparseopd import cli
from sparseopd.pairs import tiny


class Ran(NamedTuple):
    """What a command left on the screen, and its exit code."""

    code: int
    out: str
    err: str


Command = Callable[..., Ran]

SHORT = (
    "train.batch_size=8",
    "train.steps=4",
    "evaluate.prompts=8",
    "evaluate.samples=2",
    "device=cpu",
)
"""Settings that keep a run to seconds."""


@pytest.fixture
def sparseopd(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    def run(*words: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["sparseopd", *map(str, words)])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: student/, teacher/ and prompts.jsonl, as if trained elsewhere."""
    folder = tmp_path_factory.mktemp("mine")
    for role in ("student", "teacher"):
        shutil.copytree(tiny.folder("tiny-arithmetic") / role, folder / role)
    lines = (tiny.folder("tiny-arithmetic") / "train.jsonl").read_text().splitlines()[:64]
    (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def loaded(path: Path) -> dict:
    """A JSON file's content."""
    return json.loads(path.read_text())
