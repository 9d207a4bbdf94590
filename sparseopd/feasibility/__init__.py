"""Can a recipe be run here? Everything that can be known before a weight is loaded.

    Recipe (+ mask, device) → make_request → check_recipe → Report(findings, memory, disk)

    report = check_recipe(make_request(recipe, density=0.1, memory="24GiB"))
    report.errors; report.memory.peak; report.as_json()

Of hub models only configurations and tokenizers are fetched. Each check is a plain function that
returns findings; `checks.CHECKS` lists them.
"""

from sparseopd.feasibility.checks import CHECKS, Report, check_recipe
from sparseopd.feasibility.findings import Finding
from sparseopd.feasibility.request import Request, make_request

__all__ = ["CHECKS", "Finding", "Report", "Request", "check_recipe", "make_request"]
