"""The page of a comparison stands alone, answers first, escapes everything, and bears missing parts."""

from __future__ import annotations

import base64
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sparseopd.errors import RunFolderError
from sparseopd.report import write_comparison
from sparseopd.report.comparison_page import render
from sparseopd.results import Results, Study
from tests.report.comparisons import (
    HOSTILE,
    arm,
    bare,
    hostile,
    realistic,
    results,
    study,
    ungraded,
)
from tests.report.reading import Page

FEW = ("source", "full OPD", "discovered 10 %", "random 10 %", "low-magnitude 10 %")
VISIBLE = HOSTILE.replace("\x1b", "\ufffd").replace("\x00", "\ufffd")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A large comparison written once."""
    made = tmp_path_factory.mktemp("comparison")
    write_comparison(realistic(), made)
    return made


@pytest.fixture(scope="module")
def large(folder: Path) -> str:
    """The page of the large comparison."""
    return (folder / "report.html").read_text(encoding="utf-8")


def headings(html: str) -> list[str]:
    return [text.strip() for tag in ("h2", "h3") for text in Page(html).text.get(tag, [])]


def alone(**parts: object) -> Results:
    """The study that has every kind of row, with a few arms, and parts of it replaced."""
    whole = realistic().studies[1]
    few = [one for one in whole.arms if one.name in FEW]
    return results(replace(whole, **{"arms": few, **parts}))  # pyright: ignore[reportArgumentType]


def test_page_reaches_out_to_nothing(large: str) -> None:
    page = Page(large)
    assert not re.search(r"https?:|//[a-z]|@import", re.sub(r"base64,[^\"]*", "", large))
    assert not page.tags.keys() & {"script", "link", "img", "image", "iframe", "object"}
    references = page.values("href") + page.values("src")
    references += re.findall(r"url\(([^)]*)\)", large)
    assert all(one.startswith(("#", "data:text/csv;")) for one in references)
    assert sum(one.startswith("#") for one in references) > 10


def test_every_reference_has_its_own_id(large: str) -> None:
    page = Page(large)
    ids = page.values("id")
    assert len(ids) == len(set(ids)) > 50
    wanted = [one[1:] for one in page.values("href") if one.startswith("#")] + page.values(
        "aria-labelledby"
    )
    wanted += [one[1:] for one in re.findall(r"url\((#[^)]*)\)", large)]
    assert len(wanted) > 20 and set(wanted) <= set(ids)


def test_page_shows_every_part_in_order(large: str) -> None:
    text = large
    positions = [
        text.index(part)
        for part in (
            "The sparse student matches full training in 2 of 4 studies",
            "Its mask beats a random one",
            "is the least tested density that matches full training",
            "is the least tested discovery that matches full training",
            "The paper’s tables",
            "Sparsity and geometry, beside nulls",
            "offline KD, Qwen2.5-Math-1.5B",
            "Mask training</h3>",
            "Optimizers</h3>",
            "Overlap of supports and masks</h3>",
            "All arms: accuracy</h3>",
            "<figure>",
            "Costs</h3>",
            "Settings</h2>",
            "Versions</bdi>",
            "sparseopd compare recipes/tiny/paper.yaml -o runs/paper</code>",
            "What the figures mean",
        )
    ]
    assert positions == sorted(positions)
    assert Page(text).open == []


def test_one_study_needs_no_overview() -> None:
    html = render(results(realistic().studies[0]), {})
    assert "studies" not in Page(html).text["p"][0]
    assert "side by side" not in html
    assert Page(html).text["p"][0].startswith("Training 10\u00a0% of the coordinates")


def test_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    small = ungraded()
    first, second = tmp_path / "a", tmp_path / "b"
    for place in (first, second):
        write_comparison(small, place)
    for path in sorted(file for file in first.rglob("*") if file.is_file()):
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes()


def test_page_holds_every_csv_that_stands_beside_it(folder: Path) -> None:
    html = (folder / "report.html").read_text(encoding="utf-8")
    links = dict(re.findall(r'download="([^"]*)" href="data:[^,]*base64,([^"]*)"', html))
    beside = {path.name: path.read_bytes() for path in (folder / "csv").iterdir()}
    assert {name: base64.b64decode(text) for name, text in links.items()} == beside
    assert len(beside) == 12


def test_every_figure_and_table_names_a_csv_that_exists(folder: Path) -> None:
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    named = set(
        re.findall(
            r"CSV: csv/([\w.]+)\.(?:\s|$)", " ".join(page.text["figcaption"] + page.text["p"])
        )
    )
    assert len(named) > 8
    assert named <= {path.name for path in (folder / "csv").iterdir()}
    assert len(page.text["figcaption"]) == page.tags["figure"] == page.tags["svg"]
    assert all("CSV: csv/" in caption for caption in page.text["figcaption"])


def test_results_read_back_from_their_file_give_the_same_page(tmp_path: Path) -> None:
    small = results(realistic().studies[0])
    small.save(tmp_path / "comparison.json")
    assert render(Results.load(tmp_path / "comparison.json"), {}) == render(small, {})


def test_hostile_texts_stay_text(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        html = write_comparison(hostile(), tmp_path).read_text(encoding="utf-8")
    page = Page(html)
    assert page.open == []
    assert not page.tags.keys() & {"script", "img"}
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert "49" not in page.text["h1"][0] and VISIBLE in page.text["h1"][0]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", html)
    assert page.tags["svg"] > 8


def test_beyond_marks_say_in_how_many_seeds(large: str) -> None:
    cells = " ".join(Page(large).text["td"])
    assert "▲ 8.83" in cells and "▼ 85.2" in cells and "▲ 2/3 2.29" in cells


def test_learning_rates_that_nothing_brackets_are_marked() -> None:
    html = render(alone(), {})
    assert "3e-4‡" in Page(html).text["td"]
    assert "‡: the best lies at the end of those tried." in html
    assert "‡" not in render(results(realistic().studies[0]), {})


def test_missing_rows_leave_no_heading(large: str) -> None:
    parts = ("geometry", "overlaps", "settling", "telemetry")
    titles = ("Sparsity and geometry", "verlap", "How the mask settles", "What the optimizers saw")
    empty = headings(render(alone(**{name: [] for name in parts}), {}))
    for title in titles:
        assert any(title in text for text in headings(large))
        assert not any(title in text for text in empty)


def test_prompts_without_a_grader_show_kl_alone() -> None:
    html = render(ungraded(), {})
    assert Page(html).text["p"][0].startswith("KL to the teacher, in nats a token: source 0.21")
    found = headings(html)
    assert "All arms" in found and "Mask training" not in found
    assert not any("ccuracy" in title for title in found)
    assert "Every arm’s answer to its learning rate" in found


def test_arms_without_tests_or_seeds_still_make_a_page() -> None:
    html = render(bare(), {})
    found = headings(html)
    assert "Accuracy on the test prompts" in found
    assert "Costs" not in found and "Versions" not in found and "All studies" not in found
    assert "Accuracy minus full training’s" not in found
    assert "There is no test against full training" in html
    assert "Holm" not in " ".join(Page(html).text["p"])


def test_one_seed_shows_no_spread(large: str) -> None:
    first = realistic().studies[0]
    arms = [replace(one, seeds=one.seeds[:1]) for one in first.arms]
    html = render(results(replace(first, arms=arms, geometry=first.geometry[:4])), {})
    assert "Upright ticks" not in html
    assert " · " in large and " · " not in " ".join(Page(html).text["td"])


def test_settings_tell_what_each_arm_was_told_to_do() -> None:
    html = render(alone(), {})
    page = Page(html)
    assert "What each arm was told to do" in page.text["summary"]
    assert {"discovered", "reverse-kl", "61,286", "6: 9.49e-6 to 3e-3"} <= set(page.text["td"])


@pytest.mark.parametrize(
    "studies",
    [
        (),
        (Study(name="x", title="", setting="", student="", teacher="", settings={}, arms=[]),),
        (study("only source", "", [arm("source", "source", 0.5)]),),
        (study("only full", "", [arm("full OPD", "full", 0.5)]),),
    ],
)
def test_hardly_anything_still_makes_a_page(studies: tuple[Study, ...], tmp_path: Path) -> None:
    html = write_comparison(results(*studies), tmp_path).read_text(encoding="utf-8")
    page = Page(html)
    assert page.open == [] and len(page.text["p"][0].strip()) > 10
    assert "paper’s tables" not in html


def test_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunFolderError, match="cannot make the folder"):
        write_comparison(bare(), tmp_path / "file")


@pytest.mark.parametrize("made", [bare, ungraded])
def test_small_pages_name_no_csv_that_is_missing(
    made: Callable[[], Results], tmp_path: Path
) -> None:
    html = write_comparison(made(), tmp_path).read_text(encoding="utf-8")
    named = set(re.findall(r"csv/([\w.]+\.csv)", re.sub(r"base64,[^\"]*", "", html)))
    assert named == {path.name for path in (tmp_path / "csv").iterdir()}
