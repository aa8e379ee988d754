"""The report in a real browser: headless Chromium, where the machine has one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from run_directories import make_run
from vit_colossal.cli import main
from vit_colossal.report.page import write_report

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")

SCREENS = {"desktop": (1280, 900), "phone": (360, 740)}
SCHEMES = ("light", "dark")
#: A label that would run, one that nothing could break into lines, and others.
LABELS = ("<img src=x onerror=alert(1)>", "unbreakable" * 12, *(f"digit {n}" for n in range(8)))

#: Whether the confusion matrix, a table or a picture, is wider than its place, and cells that are
#: cut off.
MATRIX = """() => {
  const matrix = document.querySelector(".matrix, .matrix-picture");
  if (!matrix) return [0, 0];
  const beyond = matrix.getBoundingClientRect().right
    - matrix.closest(".panel").getBoundingClientRect().right;
  const cut = [...document.querySelectorAll(".matrix tbody td")]
    .filter(cell => cell.scrollWidth > cell.clientWidth);
  return [Math.max(0, Math.ceil(beyond)), cut.length];
}"""
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
#: How far the links of the sections run out of sight.
HIDDEN_LINKS = "(list => list.scrollWidth - list.clientWidth)(document.querySelector('nav ul'))"
UNFOLD = "document.querySelectorAll('details').forEach(fold => { fold.open = true })"
PICTURES = "[...document.images].filter(i => !i.alt || !i.complete || !i.naturalWidth).length"
FOCUSED = "document.activeElement.className + ' ' + document.activeElement.textContent.trim()"
#: Contrast of each text colour on each ground, as WCAG 2.2 defines it (1.4.3).
CONTRAST = """() => {
  const probe = document.body.appendChild(document.createElement("i"));
  const light = name => {
    probe.style.color = `var(--${name})`;
    const [r, g, b] = getComputedStyle(probe).color.match(/[\\d.]+/g).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  const found = {};
  for (const text of ["text", "muted", "accent", "good", "bad", "warn"])
    for (const ground of ["page", "panel"]) {
      const [a, b] = [light(text), light(ground)];
      found[`${text} on ${ground}`] = Math.max(a, b) / Math.min(a, b);
    }
  probe.remove();
  return found;
}"""


@dataclass
class Visit:
    """An opened page, and what it did that it should not."""

    page: Any
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # Chromium's own sandbox does not start under root, as in most containers.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report of a finished run, of one that died, of both, and of a run with many labels."""
    root = tmp_path_factory.mktemp("reports")
    finished = make_run(root / "finished", LABELS, plugin="hybrid", pp=2)
    died = make_run(root / ("died" * 20), LABELS, ended=False, seed=1)
    many = make_run(root / "many", tuple(f"label {index}" for index in range(150)))
    runs = {"finished": [finished], "died": [died], "both": [finished, died], "many": [many]}
    for name, directories in runs.items():
        write_report(directories, root / f"{name}.html")
    return {name: root / f"{name}.html" for name in runs}


def visit(browser: Any, report: Path, **options: Any) -> Visit:
    """Open a report and wait until it is there."""
    page = browser.new_page(**options)
    page.set_default_timeout(20_000)
    seen = Visit(page)
    page.on("console", lambda message: seen.messages.append(message.text))
    page.on("pageerror", lambda error: seen.messages.append(str(error)))
    page.on("dialog", lambda dialog: seen.messages.append(f"dialog {dialog.message}"))
    page.on("request", lambda request: seen.requests.append(request.url))
    page.goto(report.as_uri())
    return seen


@pytest.mark.parametrize("name", ["finished", "died", "both", "many"])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("screen", SCREENS)
def test_it_opens_without_a_fault(
    browser: Any, reports: dict[str, Path], screen: str, scheme: str, name: str
) -> None:
    width, height = SCREENS[screen]
    viewport = {"width": width, "height": height}
    seen = visit(browser, reports[name], viewport=viewport, color_scheme=scheme)
    page = seen.page
    assert page.evaluate(OVERFLOW) == 0
    if name == "finished":  # several runs have more links than a phone is wide
        assert page.evaluate(HIDDEN_LINKS) == 0
    page.evaluate(UNFOLD)
    assert page.evaluate(OVERFLOW) == 0
    assert page.evaluate(PICTURES) == 0
    low = {what: ratio for what, ratio in page.evaluate(CONTRAST).items() if ratio < 4.5}
    assert low == {}
    assert seen.messages == []
    outside = [url for url in seen.requests if not url.startswith("data:")]
    assert outside == [reports[name].as_uri()]
    page.close()


@pytest.mark.parametrize("count", [2, 4, 10, 37, 120, 1000])
def test_the_confusion_matrix_fits(browser: Any, tmp_path: Path, count: int) -> None:
    labels = tuple(f"{index}{' of a long name' * (index % 3)}" for index in range(count))
    report = tmp_path / "report.html"
    write_report([make_run(tmp_path / "run", labels)], report)
    for width in (500, 1280):
        page = visit(browser, report, viewport={"width": width, "height": 900}).page
        assert (page.evaluate(OVERFLOW), page.evaluate(MATRIX)) == (0, [0, 0]), width
        if count == 1000:
            assert page.get_by_text("Most frequent mistakes, in place of a confusion").is_visible()
        else:
            assert page.locator(".matrix, .matrix-picture").is_visible()
        page.close()


def test_the_table_of_runs_is_sorted_and_filtered(browser: Any, tmp_path: Path) -> None:
    for number, plugin in enumerate(("zero1", "hybrid", "zero2")):
        make_run(tmp_path / "runs" / f"run{number}", LABELS, plugin=plugin, seed=number)
    (tmp_path / "runs" / LABELS[1]).mkdir()
    (tmp_path / "runs" / LABELS[1] / "config.yaml").write_text("- damaged")
    report = tmp_path / "runs.html"
    flags = [str(tmp_path / "runs"), "--sort", "run", "--output", str(report)]
    assert main(["runs", *flags]) == 0
    for width in (500, 1280):
        seen = visit(browser, report, viewport={"width": width, "height": 900})
        page, rows = seen.page, seen.page.locator("tbody tr:visible th")
        assert page.evaluate(OVERFLOW) == 0
        page.get_by_role("button", name="plugin").click()
        assert rows.all_inner_texts()[:3] == ["run1", "run0", "run2"]
        page.get_by_role("button", name="accuracy").click()
        found = [float(t) for t in page.locator("tbody td b").all_inner_texts()]
        assert found == sorted(found, reverse=True)
        page.get_by_label("Words").fill("zero FINISHED")
        assert sorted(rows.all_inner_texts()) == ["run0", "run2"]
        assert (seen.messages, seen.requests) == ([], [report.as_uri()])
        page.close()


def test_the_keyboard_reaches_everything(browser: Any, reports: dict[str, Path]) -> None:
    page = visit(browser, reports["finished"]).page
    words: list[str] = []
    for _ in range(250):
        page.keyboard.press("Tab")
        focused = page.evaluate(FOCUSED).strip()
        if focused in words[:1]:
            break  # once around
        words.append(focused)
    assert words[:6] == [
        "skip Skip to the content",
        *["Overview", "Curves", "Classes", "Images", "Setup"],
    ]
    assert sum(text.startswith("plot") for text in words) == 6
    assert any(text.startswith("All evaluations") for text in words)
    assert any(text.startswith("Right") for text in words)
    page.close()


def test_a_section_is_reached_by_its_link_and_a_fold_by_its_key(
    browser: Any, reports: dict[str, Path]
) -> None:
    page = visit(browser, reports["both"]).page
    run = page.locator("details.run").first
    assert run.get_attribute("open") is None
    page.get_by_role("navigation").get_by_role("link", name="finished").press("Enter")
    page.wait_for_function("document.querySelector('details.run').open")
    run.locator("summary").first.press("Enter")
    assert run.get_attribute("open") is None
    page.close()


def test_arrow_keys_and_the_pointer_read_a_curve(browser: Any, reports: dict[str, Path]) -> None:
    page = visit(browser, reports["finished"]).page
    chart = page.locator(".chart").first
    plot, readout = chart.locator(".plot"), chart.locator(".readout")
    plot.focus()
    page.keyboard.press("End")
    assert readout.inner_text() == "step 200: training 0.1888, evaluation 0.5"
    page.keyboard.press("Home")
    assert readout.inner_text() == "step 10: training 2.03"
    page.keyboard.press("ArrowRight")
    assert readout.inner_text().startswith("step 20: ")
    plot.blur()
    assert readout.inner_text().strip() == ""
    plot.hover()
    assert readout.inner_text().startswith("step ")
    page.close()


def test_a_picture_is_enlarged_and_mistakes_are_filtered(browser: Any, tmp_path: Path) -> None:
    # Of four labels the made-up scores are sure enough for labels to be in doubt.
    report = tmp_path / "report.html"
    write_report([make_run(tmp_path / "run", LABELS[:4])], report)
    page = visit(browser, report).page
    shown = page.locator(".gallery").first.locator("> li:visible")
    whole = shown.count()
    page.locator(".filter select").select_option(LABELS[0])
    assert 0 < shown.count() < whole
    assert all(LABELS[0] in text for text in shown.locator(".picture-text").all_inner_texts())
    assert page.locator(".filter output").inner_text() == f"{shown.count()} of {whole} pictures"
    shown.locator("button").first.press("Enter")
    enlarged = page.locator("dialog img")
    assert enlarged.bounding_box()["width"] > 400
    page.keyboard.press("Escape")
    enlarged.wait_for(state="detached")
    page.locator(".filter select").select_option("")
    page.get_by_label("label in doubt").check()
    assert 0 < shown.count() < whole
    with page.expect_download() as saved:
        page.get_by_role("link", name="as CSV").click()
    assert saved.value.suggested_filename == "suspected-label-errors.csv"
    page.close()


def test_it_is_whole_without_scripts(browser: Any, reports: dict[str, Path]) -> None:
    seen = visit(browser, reports["finished"], java_script_enabled=False)
    page = seen.page
    assert page.locator(".chart svg").count() == 6
    assert page.locator(".chart svg").first.is_visible()
    assert page.get_by_role("heading", name="Worst mistakes").is_visible()
    assert not page.locator(".hint").first.is_visible()
    page.close()
