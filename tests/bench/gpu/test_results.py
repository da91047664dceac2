"""What a run keeps: after every part, for machines and readers, and whether it may be brought back."""

import json
from pathlib import Path

import pytest

from specbound.bench.gpu import results as module
from specbound.bench.gpu.finding import Finding, Table
from specbound.bench.gpu.results import Results, over_limits, shown
from specbound_controller.errors import InputError

TABLE = Table("speeds", ("method", "tokens/s"), [("plain", 12345.678), ("draft", float("nan")), ("a|b", 0.123456)])


def test_what_a_part_found_is_in_both_files_as_soon_as_it_ends(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.begin("shapes", "7b")
    assert json.loads((tmp_path / "results.json").read_text())["stages"]["shapes"]["7b"]["status"] == "begun"
    assert "begun and not ended" in (tmp_path / "results.md").read_text()
    results.finish("shapes", "7b", Finding([TABLE], ["a note"], {"x": float("inf")}), 1.5)
    entry = json.loads((tmp_path / "results.json").read_text())["stages"]["shapes"]["7b"]
    assert entry["status"] == "finished" and entry["tables"][0]["rows"][1][1] is None and entry["data"] == {"x": None}
    text = (tmp_path / "results.md").read_text()
    assert "| plain | 12,346 |" in text and "| draft | – |" in text and "| a\\|b | 0.1235 |" in text
    assert "* a note" in text and "## shapes: 7b" in text


def test_another_process_goes_on_with_what_was_kept(tmp_path: Path) -> None:
    Results(tmp_path).finish("micro", "launches", Finding(), 1.0)
    Results(tmp_path).fail("micro", "bits", "Traceback: boom", 1.0)
    again = Results(tmp_path)
    assert again.status("micro", "launches") == "finished" and again.status("micro", "bits") == "failed"
    assert again.status("micro", "other") is None and "Traceback: boom" in (tmp_path / "results.md").read_text()
    assert again.failed_since("micro", "2000-01-01") == {"bits"} and not again.failed_since("micro", "9999-01-01")


def test_only_the_named_stages_are_forgotten(tmp_path: Path) -> None:
    results = Results(tmp_path)
    for stage in ("tests", "shapes", "micro"):
        results.finish(stage, "part", Finding(), 1.0)
    results.forget(name for name in ("tests", "micro"))
    assert list(Results(tmp_path).entries) == ["shapes"]


def test_a_part_that_ends_with_a_failure_has_failed(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.finish("tests", "file", Finding([TABLE], failure="test_x\nAssertionError"), 1.0)
    assert results.status("tests", "file") == "failed"
    assert "AssertionError" in (tmp_path / "results.md").read_text()


def test_dry_runs_and_foreign_files_are_not_gone_on_with(tmp_path: Path) -> None:
    Results(tmp_path, is_dry=True).finish("micro", "bits", Finding(), 1.0)
    with pytest.raises(InputError, match="must not mix dry runs"):
        Results(tmp_path)
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(InputError, match="is no result of this command"):
        Results(tmp_path)


def test_what_is_too_large_to_be_brought_back_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not over_limits(tmp_path)
    monkeypatch.setattr(module, "MOST_FILE_BYTES", 10)
    (tmp_path / "store.bin").write_bytes(b"x" * 11)
    assert over_limits(tmp_path) == ["store.bin has 0.0 MB, at most 0 come back"]
    for number in range(8):
        (tmp_path / f"{number}.txt").write_text("")
    assert "holds 9 files, at most 8" in over_limits(tmp_path)[1]


def test_code_without_a_repository_is_named_by_its_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    module.code_name.cache_clear()
    try:
        assert module.code_name() == f"sources {module.sources_checksum()}"
    finally:
        module.code_name.cache_clear()


def test_cells_are_shown_with_four_digits() -> None:
    assert [shown(cell) for cell in (None, 3, 2.5, 0.00012345, "x")] == ["–", "3", "2.5", "0.0001234", "x"]
