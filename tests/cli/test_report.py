"""`specbound report` through the command line: page, plots, figures, bad input."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from specbound_controller.records import StepRecord
from specbound_profiling.log.live_steps import LiveSteps
from specbound_profiling.log.store import open_log
from tests.profiling.report.test_trees import tree_record

Run = Callable[..., tuple[int, str, str]]


def test_report_writes_a_page_and_plots_that_fit_the_log(run: Run, tiny_log: Path, tmp_path: Path) -> None:
    out, figures = tmp_path / "report", tmp_path / "figures.json"
    code, text, err = run("report", "--log", str(tiny_log), "--out", str(out), "--json", str(figures))
    assert (code, err) == (0, "")
    names = {path.name for path in out.iterdir()}
    plots = {f"{kind}-{level}.png" for kind in ("reliability", "acceptance", "content") for level in ("none", "bf16")}
    assert names == {"report.html", "levels.png", *plots}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 7 and "Compression: bf16" in page
    assert "decoding: greedy" in page and "> cat<" in page.replace("\n", "")  # text, not ids
    assert f"page: {out / 'report.html'}" in text

    report = json.loads(figures.read_text())
    log = open_log(tiny_log)
    assert report["rows"] == [] and report["model"]["fingerprint"] == log.manifest.model_fingerprint
    for level, name in zip(report["calibration"], ("none", "bf16"), strict=True):
        assert (level["compression"], level["num_fitted"], level["num_judged"]) == (name, 5, 5)
        traces = log.traces(name)
        rows = [each for each in level["exits"] if each["task"] == "all"]
        assert [each["exit_layer"] for each in rows] == [1, 2, 3]
        assert 0 < rows[0]["num_rows"] < sum(trace.num_positions for trace in traces)
        assert all(0 <= m["ece"] <= 1 for each in rows for m in each["measures"].values())

    again = run("report", "--log", str(tiny_log), "--out", str(out), "--json", "-")[1]
    assert json.loads(again)["calibration"] == report["calibration"]  # nothing printed beside, files replaced
    assert (out / "report.html").read_text(encoding="utf-8") == page


def test_live_steps_of_the_log_are_shown(run: Run, tiny_log: Path, tmp_path: Path) -> None:
    root, out, figures = shutil.copytree(tiny_log, tmp_path / "log"), tmp_path / "out", tmp_path / "figures.json"
    plain = StepRecord(9, 0, 0, 1, (), (), (), (), "off", {1: 4}, {1: 1}, 0)
    drafts = StepRecord(9, 2, 1, 2, (1, 1), (0.75, 0.5), (0.5, 0.5), (1.0, 1.0), "width", {1: 2, 3: 3}, {1: 2, 3: 1}, 2)
    log = open_log(root)
    log.write_live_steps("none", "plain", [LiveSteps("p", "none", "plain", (plain,))])
    log.write_live_steps("none", "static", [LiveSteps("p", "none", "static", (plain, drafts))])
    code, text, err = run("report", "--log", str(root), "--out", str(out), "--json", str(figures))
    assert code == 0, err
    none, bf16 = json.loads(figures.read_text())["calibration"]
    assert bf16["live"] == []
    [shown] = none["live"]  # plain decoding drafts nothing
    assert (shown["policy"], shown["num_steps"], shown["num_drafted"]) == ("static", 2, 2)
    assert [each["scored_acceptance"] for each in shown["by_place"]] == [1.0, 0.0]
    assert "none, live, static: 1 prompts, 1.50 tokens per step; 2 drafts that a score let pass" in text
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Live steps" in page and "drafts ended by off 50%, width 50%" in page and "<td>0.625</td>" in page


def test_live_trees_of_the_log_are_drawn(run: Run, tiny_log: Path, tmp_path: Path) -> None:
    """A tree of five nodes, of which the second child of the root and its first child are right."""
    root, out, figures = shutil.copytree(tiny_log, tmp_path / "log"), tmp_path / "out", tmp_path / "figures.json"
    log = open_log(root)
    trace = log.traces("none")[0]
    record = tree_record(trace.prompt_length + 1)
    log.write_live_steps("none", "tree5", [LiveSteps(trace.prompt_id, "none", "tree5", (record,))])
    code, _, err = run("report", "--log", str(root), "--out", str(out), "--model", "none", "--json", str(figures))
    assert code == 0, err
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Draft trees of tree5" in page and "step 0: 2 of 5 nodes accepted" in page and page.count("<circle") == 6
    [live] = json.loads(figures.read_text())["calibration"][0]["live"]
    assert [(each["num_judged"], each["acceptance"]) for each in live["by_place"]] == [(2, 0.5), (2, 0.5)]


def test_ids_are_shown_without_a_tokenizer(run: Run, tiny_log: Path, tmp_path: Path) -> None:
    log = shutil.copytree(tiny_log, tmp_path / "log")
    manifest = json.loads((log / "manifest.json").read_text())
    (log / "manifest.json").write_text(json.dumps(manifest | {"model": "/no/such/model"}))
    first = str(open_log(log).traces("none")[0].tokens[0])
    for options in ((), ("--model", "none")):
        code, _, err = run("report", "--log", str(log), "--out", str(tmp_path / "out"), *options)
        assert code == 0, err
        assert f">{first} </span>" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    code, _, err = run("report", "--log", str(log), "--out", str(tmp_path / "out"), "--num-viewed", "0")
    assert code == 0 and "token-data" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "/no/such/model"), "'/no/such/model' does not exist"),
        (("--judged-share", "1"), "judged_share must be in [0.1, 0.9], got 1"),
        (("--num-viewed", "-1"), "num_viewed must be >= 0"),
        (("--alpha", "-1"), "alpha must be >= 0"),
        (("--alpha", "9"), "use a smaller alpha"),
        (("--log", "/no/such/log"), "log must be a folder that specbound profile wrote"),
        (("--out", "/dev/null/x"), "out must be a folder that can be written"),
    ],
)
def test_bad_input_is_one_line(
    run: Run, tiny_log: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    code, out, err = run("report", "--log", str(tiny_log), "--out", str(tmp_path / "out"), *options)
    assert (code, out) == (2, ""), err
    assert message in err and err.count("\n") == 1, err
