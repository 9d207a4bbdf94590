"""Checks of the packages that a recipe needs and this installation may lack."""

from __future__ import annotations

from importlib.util import find_spec

from sparseopd.feasibility.findings import Finding, Level
from sparseopd.feasibility.request import teachers
from sparseopd.feasibility.subject import Subject


def check_packages(subject: Subject) -> list[Finding]:
    """Look for the packages that settings of the recipe call for."""
    recipe = subject.recipe
    needed = {
        f"{name}.quantization={one.quantization}": "bitsandbytes"
        for name, one in teachers(recipe).items()
        if one.quantization
    }
    if recipe.optimizer.name.endswith("8bit"):
        needed[f"optimizer.name={recipe.optimizer.name}"] = "bitsandbytes"
    needed |= {f"{name}.server": "vllm" for name, one in teachers(recipe).items() if one.server}
    if recipe.rollout.vllm:
        needed[f"rollout.vllm={recipe.rollout.vllm}"] = "vllm"
    needed |= {f"train.report_to={sink}": sink for sink in recipe.train.report_to}
    missing = {
        setting: package for setting, package in needed.items() if find_spec(package) is None
    }
    level: Level = "warning" if subject.elsewhere else "error"
    where = " where it is to run" if subject.elsewhere else ""
    return [
        Finding(level, "packages", f"{setting} needs {package}: pip install {package}{where}")
        for setting, package in missing.items()
    ]
