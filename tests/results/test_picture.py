"""The picture of speeds: what it takes from a report, what it refuses; the shipped one shows the shipped figures."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from specbound.results.picture import Panel, draw, image, main, panel_of, speed_figure

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = [ROOT / "docs" / "figures" / f"{name}.json" for name in ("bench", "race", "evaluate")]


def row(method: str, speedup: float | None, **other: Any) -> dict[str, Any]:
    return {
        "method": method,
        "task": "all",
        "compression": "none",
        "exactness": "token",
        "num_prompts": 7,
        "speedup": speedup,
        "speedup_low": None,
        "speedup_high": None,
        **other,
    }


def saved(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "report.json"
    path.write_text(json.dumps({"schema": 1, "command": ["specbound", "bench", "--x"], "rows": rows}))
    return path


def heights(panel: Panel) -> dict[str, float]:
    return {bar.method: bar.speedup for bar in panel.bars}


def test_speedups_are_over_plain_decoding_whatever_the_report_divides_by(tmp_path: Path) -> None:
    rows = [row("transformers", 1.0), row("plain", 0.8), row("controller", 1.2, speedup_low=0.96, speedup_high=1.6)]
    panel = panel_of(saved(tmp_path, *rows))
    assert panel.title == "specbound bench, 7 prompts"
    assert heights(panel) == pytest.approx({"transformers": 1.25, "plain": 1.0, "controller": 1.5})
    assert (panel.bars[-1].low, panel.bars[-1].high) == pytest.approx((1.2, 2.0))


def test_the_fastest_variant_stands_for_a_method_and_unclaimed_rows_are_left_out(tmp_path: Path) -> None:
    rows = [
        row("assistant_early_exit", 0.6),
        row("assistant_early_exit_default", 0.7),
        row("controller", None),
        row("prompt_lookup", 0.9, task="math"),
        row("plain", 1.0),
        row("layerskip", 1.3),
    ]
    assert heights(panel_of(saved(tmp_path, *rows))) == {"assistant_early_exit": 0.7, "plain": 1.0}


def test_bars_have_the_lengths_of_the_speedups(tmp_path: Path) -> None:
    figure = speed_figure([panel_of(saved(tmp_path, row("plain", 1.0), row("controller", 1.4)))])
    assert [bar.get_width() for bar in figure.axes[0].patches] == [1.0, 1.4]


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_the_same_figure_gives_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    panels = [panel_of(saved(tmp_path, row("plain", 1.0)))]
    assert image(speed_figure(panels), suffix) == image(speed_figure(panels), suffix)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "damaged JSON"),
        ('{"schema": 2, "rows": []}', "must be a report"),
        ('{"schema": 1, "command": ["a", "b"], "rows": [{"method": "plain"}]}', "cannot be drawn"),
        (json.dumps({"schema": 1, "command": [], "rows": [row("controller", 1.4)]}), "plain decoding with a speedup"),
        (
            json.dumps({"schema": 1, "command": [], "rows": [row("controller", 1, exactness=e) for e in "ab"]}),
            "one compression level",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    report, out = tmp_path / "report.json", tmp_path / "speed.svg"
    report.write_text(content)
    assert main([str(report), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not out.exists()


def test_a_missing_report_an_unknown_format_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    report = saved(tmp_path, row("plain", 1.0))
    assert main([str(tmp_path / "none.json"), "--out", str(tmp_path / "a.svg")]) == 2
    assert main([str(report), "--out", str(tmp_path / "a.jpg")]) == 2
    assert main([str(report), "--out", str(tmp_path / "none" / "a.svg")]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json"]


def test_the_shipped_picture_shows_the_shipped_figures(tmp_path: Path) -> None:
    """Its words and numbers; lines may be drawn otherwise by another version of matplotlib."""
    draw(SHIPPED, tmp_path / "speed.svg")
    drawn, shipped = (path.read_text("utf-8") for path in (tmp_path / "speed.svg", ROOT / "docs" / "speed.svg"))
    assert texts(drawn) == texts(shipped)
    assert {f"{bar.speedup:.2f}x" for path in SHIPPED for bar in panel_of(path).bars} <= set(texts(shipped))


def texts(svg: str) -> list[str]:
    return [text.strip() for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]
