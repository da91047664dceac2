"""The page: it needs nothing from outside, shows what it was given, and no text from outside can break it."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from specbound_controller.lookup import NO_TOKEN
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.report.page import NO_EXIT_COLOUR, LevelSection, build_page, exit_colour
from specbound_profiling.report.plots import acceptance_figure, groups_figure, png, reliability_figure
from specbound_profiling.report.records import SCORE_NAMES, Bin, ExitCalibration, LevelCalibration, Measures
from specbound_profiling.report.tokens import LevelView, first_agreeing, token_text, view_level

TraceOf = Callable[..., PromptTrace]
EXITS, NUM_LAYERS = (1, 2, 3), 4
BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "chromium-headless-shell",
)
VOID = {"meta", "img", "br", "input", "link"}
NASTY = '</script><img src=x onerror="document.title=1">&amp;'


def decode(ids: Sequence[int]) -> str:
    """Token 10 ends the line, token 11 would end a script, others are words."""
    return "".join({10: "\n", 11: NASTY}.get(i, f" w{i}") for i in ids)


@pytest.fixture
def trace(trace_of: TraceOf) -> PromptTrace:
    accepted = [[0, 1, 1], [0, 0, 0], [1, 0, 1], [0, 0, 1]]
    confidence = np.linspace(0.11, 0.87, 12).reshape(4, 3).round(3).tolist()
    return trace_of(accepted, EXITS, confidence, prompt_id=NASTY, task="<code>")


def calibration(tasks: Sequence[str] = ("all", "<code>", "prose")) -> LevelCalibration:
    bins = tuple(Bin(0.1 * i, 0.1 * i, 7) for i in range(10))
    exits = tuple(
        ExitCalibration(
            task=task,
            exit_layer=layer,
            num_rows=70,
            acceptance=0.321,
            confidence=0.456,
            entropy_nats=1.5,
            measures={name: Measures(0.1234 + i, 0.2, float("nan")) for i, name in enumerate(SCORE_NAMES)},
            reliability=dict.fromkeys(SCORE_NAMES, bins) if task == "all" else {},
            by_confidence=bins if task == "all" else (),
            by_entropy=bins if task == "all" else (),
        )
        for task in tasks
        for layer in EXITS
    )
    return LevelCalibration(
        compression="none",
        num_layers=NUM_LAYERS,
        num_fitted=5,
        num_judged=6,
        alpha=0.5,
        likely_alpha=0.25,
        largest_alpha=1.3,
        annealed_temperatures={1: 1.375, 2: 1.25, 3: 1.125},
        own_temperatures={1: 1.0, 2: 1.5, 3: 1.2},
        temperature_range=(1.0, 2.0),
        exits=exits,
    )


@pytest.fixture
def view(trace: PromptTrace) -> LevelView:
    return view_level([trace, trace], 0.5, NUM_LAYERS, 1, decode)


@cache
def plots() -> tuple[bytes, bytes, bytes]:
    level = calibration()
    groups = {task: level.of_task(task) for task in level.tasks}
    return png(reliability_figure(level)), png(acceptance_figure(level)), png(groups_figure(groups))


@pytest.fixture
def page(view: LevelView) -> str:
    reliability, acceptance, overview = plots()
    section = LevelSection(calibration(), view, {"Reliability": reliability, "Acceptance": acceptance})
    return build_page({"model": NASTY}, [section], overview)


class Checked(HTMLParser):
    """Collects what a page asks for from outside, tags that do not match, and the text of its cells and tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.wrong: list[str] = []
        self.scripts: list[dict[str, str | None]] = []
        self.tokens: list[tuple[str, str]] = []
        self.cells: list[str] = []
        self.images: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.outside += [f"{tag} {k}={v}" for k, v in attrs if k in ("src", "href", "action", "data", "srcset") and v
                         and not v.startswith("data:")]  # fmt: skip
        self.outside += [f"{tag} {k}" for k, _ in attrs if k.startswith("on")] + ([tag] if tag == "link" else [])
        if tag == "img":
            self.images.append(values.get("src") or "")
        if tag == "script":
            self.scripts.append(values)
        if tag == "span" and "data-p" in values:
            self.tokens.append((values["style"] or "", values.get("data-text") or ""))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "td":
            self.cells.append(data)

    def close(self) -> None:
        super().close()
        self.wrong += self._open


def parsed(page: str) -> Checked:
    checked = Checked()
    checked.feed(page)
    checked.close()
    return checked


def token_data(page: str) -> list[dict[str, list[object]]]:
    found = re.search(r'<script type="application/json" id="token-data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data: list[dict[str, list[object]]] = json.loads(found[1])
    return data


def test_the_page_asks_for_nothing_from_outside(page: str) -> None:
    checked = parsed(page)
    assert checked.outside == [] and checked.wrong == []
    assert len(checked.images) == 3 and all(src.startswith("data:image/png;base64,") for src in checked.images)
    assert not re.search(r"@import|url\(|https?://|fetch\(|XMLHttpRequest|import\(", page)
    assert page.startswith("<!DOCTYPE html>") and len(checked.scripts) == 2


@pytest.mark.parametrize(
    "addition",
    [
        '<script src="x.js"></script>',
        '<img src="https://a.b/c.png">',
        '<link rel="stylesheet" href="a.css">',
        "<p></b>",
    ],
)
def test_the_check_sees_a_page_that_is_not_whole(page: str, addition: str) -> None:
    checked = parsed(page.replace("</body>", addition + "</body>"))
    assert checked.outside or checked.wrong


def test_text_from_outside_is_text(page: str) -> None:
    assert NASTY not in page and "&lt;code&gt;" in page
    assert token_data(page)[0]["prompts"][0][1][1][0][0] == " w9"  # type: ignore[index]
    assert [text for _, text in parsed(page).tokens] == ["\n", "", "", ""]  # a line end is shown as a sign


def test_tables_show_the_figures_and_a_dash_for_what_is_unknown(page: str) -> None:
    cells = parsed(page).cells
    assert cells.count("0.123") >= len(EXITS) and "0.321" in cells and "–" in cells and "nan" not in cells
    assert "most likely α is 0.25" in page and "annealed is shown at α = 0.50" in page
    assert "own temperature of exit 1 lies at the edge" in page and "1.00*" in cells and "1.50" in cells


def test_a_temperature_below_1_that_the_grid_holds_is_said_to_be_one() -> None:
    level = replace(calibration(), own_temperatures={0: 1.0, 1: 0.8, 2: 1.5, 3: 1.2}, temperature_range=(0.5, 2.0))
    page = build_page({}, [LevelSection(level, None, {})], None)
    assert level.exits_at_edge == () and "at the edge" not in page and "*</td>" not in page
    assert "less sure than it could be" in page and "<td>0.80</td>" in page
    wide = replace(level, own_temperatures={1: 2.0, 2: 0.5, 3: 1.2})
    assert wide.exits_at_edge == (1, 2)
    assert replace(level, temperature_range=(1.0, 2.0)).exits_at_edge == ()  # exit 0 looks up: it has no temperature


def test_tokens_are_coloured_by_the_first_exit_that_agrees(page: str, trace: PromptTrace, view: LevelView) -> None:
    assert first_agreeing(trace).tolist() == [1, 3, 0, 2]
    colours = [NO_EXIT_COLOUR if e == 3 else exit_colour(e, 3) for e in (1, 3, 0, 2)]
    assert [style for style, _ in parsed(page).tokens] == [f"background:{colour}" for colour in colours]
    assert len(set(colours)) == 4
    assert view.shares == (0.25, 0.25, 0.25) and view.share_of_none == pytest.approx(0.25)


def test_token_data_holds_the_numbers_of_the_trace(page: str, trace: PromptTrace) -> None:
    level = token_data(page)[0]
    assert level["exits"] == list(EXITS)
    positions = level["prompts"][0]
    assert isinstance(positions, list) and len(positions) == 4
    for p, (full, drafts) in enumerate(positions):
        expected = (trace.full_confidence[p], trace.full_entropy_nats[p], trace.full_margin[p])
        assert full == pytest.approx(expected, abs=1e-4)
        for e, (text, confidence, annealed, entropy, agrees) in enumerate(drafts):
            assert confidence == pytest.approx(trace.confidence[p, e], abs=1e-4)
            assert entropy == pytest.approx(trace.entropy_nats[p, e], abs=1e-4)
            assert annealed < confidence and bool(agrees) == trace.is_accepted[p, e]
            assert text == decode([int(trace.draft_token[p, e])])


def test_a_lookup_that_finds_nothing_drafts_nothing_and_is_not_annealed(trace: PromptTrace) -> None:
    tokens = trace.draft_token.copy()
    tokens[1, 0] = NO_TOKEN
    tokens[2, 0] = trace.tokens[2]
    looked_up = replace(trace, exit_layers=(0, 2, 3), draft_token=tokens)

    def strict(ids: Sequence[int]) -> str:
        assert min(ids, default=0) >= 0
        return decode(ids)

    [prompt] = view_level([looked_up], 1.5, NUM_LAYERS, 1, strict).prompts  # exit 0 would want temperature 2.5
    assert [token.drafts[0][0] for token in prompt.tokens][1] == ""
    for p, token in enumerate(prompt.tokens):
        _, confidence, annealed, *_ = token.drafts[0]
        assert annealed == confidence == pytest.approx(trace.confidence[p, 0])


def test_text_of_a_token_depends_on_what_stands_before_it() -> None:
    words = {1: "the", 2: "cat", 3: "é"}

    def joined(ids: Sequence[int]) -> str:
        return " ".join(words.get(i, "") for i in ids)

    assert token_text([1], 2, joined) == " cat" and token_text([], 2, joined) == "cat"
    assert token_text([1, 2], 7, None) == "7 "
    merged = {(5,): "\ufffd", (5, 6): "é", (6,): "\ufffd", (): ""}
    assert token_text([5], 6, lambda ids: merged[tuple(ids)]) == "\ufffd"  # the start changes: the token alone


def test_plots_differ_only_where_figures_do() -> None:
    assert png(reliability_figure(calibration())) == png(reliability_figure(calibration()))
    assert png(acceptance_figure(calibration()))[:8] == b"\x89PNG\r\n\x1a\n"


@cache
def find_browser() -> str | None:
    """A Chromium on the path, or one that playwright has installed."""
    on_path = (path for name in BROWSERS if (path := shutil.which(name)))
    found = next(filter(answers, on_path), None)
    cache = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH", Path.home() / ".cache" / "ms-playwright"))
    installed = [*cache.glob("chromium*/*/chrome"), *cache.glob("chromium*/*/headless_shell")]
    return found or (str(installed[0]) if installed else None)


def answers(browser: str) -> bool:
    """Whether it is more than a note that a browser is to be had elsewhere, which some distributions install."""
    try:
        return subprocess.run([browser, "--version"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed")
def test_a_browser_shows_the_numbers_of_the_token_that_is_pointed_at(page: str, tmp_path: Path) -> None:
    script = """<script>
    const report = (error) => document.body.append(Object.assign(document.createElement("i"), {textContent: error}));
    addEventListener("error", (event) => report(event.message));
    const token = document.querySelectorAll(".text-view span")[2];
    token.dispatchEvent(new MouseEvent("mouseover", {bubbles: true}));
    const details = document.getElementById("details"), shown = document.createElement("b");
    shown.id = "shown";
    shown.textContent = details.innerText + "|" + details.style.display;
    token.dispatchEvent(new MouseEvent("mouseout", {bubbles: true}));
    shown.textContent += "|" + details.style.display;
    document.body.append(shown);
    </script>"""
    file = tmp_path / "page.html"
    file.write_text(page.replace("</body>", script + "</body>"), encoding="utf-8")
    browser = find_browser()
    assert browser is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    result = subprocess.run([browser, *options, file.as_uri()], capture_output=True, text=True, timeout=120)
    shown = re.search(r'<b id="shown">(.*?)</b>', result.stdout, re.DOTALL)
    assert shown is not None, result.stderr[-2000:]
    text, displayed, hidden = shown[1].split("|")
    assert (displayed, hidden) == ("block", "none")
    assert "token 3" in text and "first exit that agrees: 1" in text
    for value in ("0.525", "0.594", "0.663"):  # confidence of the three exits at the third token
        assert value in text, text
    assert 'data-ready="yes"' in result.stdout and "<title>specbound report</title>" in result.stdout
    assert "<i>" not in result.stdout
