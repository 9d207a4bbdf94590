"""A report for people: findings, then where the memory goes."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sparseopd.feasibility.activations import Numbers
from sparseopd.feasibility.checks import Report
from sparseopd.feasibility.findings import Finding, Level
from sparseopd.feasibility.memory import Estimate
from sparseopd.feasibility.plan import Plan
from sparseopd.feasibility.room import PHASES
from sparseopd.feasibility.sizes import parameters, readable
from sparseopd.settings.peft import PEFT_LABELS

WORDS: dict[Level, tuple[str, str]] = {
    "ok": ("ok", "green"),
    "note": ("note", "cyan"),
    "warning": ("warning", "yellow"),
    "error": ("error", "bold red"),
    "unknown": ("-", "dim"),
}
"""How a level is written, and its colour."""
COMPUTED: dict[Numbers, str] = {
    "float32": "float32",
    "half": "16 bits",
    "autocast": "bfloat16 where autocast does",
}


def rendered(report: Report) -> RenderableType:
    """Return the whole report; it fits 80 columns."""
    parts: list[RenderableType] = [_title(report), findings_table(report.findings)]
    plan = report.subject.plan
    if report.memory is not None and plan is not None:
        parts += [Text(), _basis(plan), memory_table(report.memory)]
    return Group(*parts)


def findings_table(findings: list[Finding]) -> Table:
    """Return one row a finding: level, topic, sentence."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        word, colour = WORDS[finding.level]
        table.add_row(Text(word, style=colour), Text(finding.topic), Text(finding.sentence))
    return table


def memory_table(memory: Estimate) -> Table:
    """Return the items held all the time and those of the phase that needs most; sums of the others."""
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("memory at step 2", overflow="fold")
    table.add_column("item", justify="right", no_wrap=True)
    table.add_column("in use", justify="right", no_wrap=True)
    _add(table, "all the time", memory.held, sum(memory.held.values()))
    for name, items in memory.phases.items():
        largest = name == memory.largest
        title = f"while {PHASES[name]}" + (": the peak" if largest else "")
        _add(table, title, items if largest else {}, memory.of(name), "bold" if largest else "")
    return table


def _add(table: Table, title: str, items: dict[str, int], total: int, style: str = "") -> None:
    table.add_row(Text(title, style=style), "", Text(readable(total), style=style))
    for item, size in items.items():
        table.add_row(Text(f"  {item}"), readable(size), "")


def _title(report: Report) -> Text:
    subject = report.subject
    run = "a masked run" if subject.request.masked else "a full run"
    if subject.recipe.train.peft is not None:
        run = f"a run of {PEFT_LABELS[subject.recipe.train.peft.type]}"
    device = subject.device.label if subject.device else "an unknown device"
    return Text(f"{subject.recipe.name}: {run} on {device}", style="bold")


def _basis(plan: Plan) -> Text:
    """Say what the estimate is of."""
    lengths = plan.lengths
    whole = f"{parameters(plan.student.parameters)} parameters"
    trained = f"all {whole}" if plan.k == plan.student.parameters else f"{plan.k:,} of {whole}"
    passes = "in one pass" if plan.accumulation == 1 else f"in {plan.accumulation} passes"
    sequences = "1 sequence" if plan.micro == 1 else f"{plan.micro} sequences"
    return Text(
        f"training {trained}; an update {passes} of {sequences} of {lengths.prompt:,} + "
        f"{lengths.response:,} tokens, computed in {COMPUTED[plan.numbers]}"
    )
