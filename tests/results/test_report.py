"""Reports: rows, null, whole files, and the table for people."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from specbound.results.report import build_report, check_destination, write_report
from specbound.results.rows import Row, modelled_rows
from specbound.results.tables import results_table
from specbound_controller.errors import InputError


def rows() -> list[Row]:
    return [
        Row("plain", "none", "all", 2, 64, 50.0, 1.0, math.nan, 16.0, 1.0, outputs_equal=True),
        Row(
            "controller", "none", "all", 2, 64, 90.0, 2.5, 0.8, 9.0, 1.8, 1.7, 1.9, outputs_equal=False, num_near_ties=1
        ),
        Row("oracle", "none", "all", 2, 64, 120.0, 3.0, 1.0, 7.0, 2.4, simulated=True),
    ]


def test_report_has_the_documented_keys_and_null_for_nan(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    write_report(build_report(rows(), {"name": "demo"}), str(file))
    report = json.loads(file.read_text())
    assert {"schema", "command", "versions", "machine", "model", "rows"} <= set(report)
    assert set(report["rows"][0]) == {
        "method",
        "compression",
        "exactness",
        "task",
        "num_prompts",
        "num_tokens",
        "tokens_per_second",
        "tokens_per_step",
        "acceptance_rate",
        "layer_calls_per_token",
        "speedup",
        "speedup_low",
        "speedup_high",
        "outputs_equal",
        "num_near_ties",
        "simulated",
    }
    assert report["rows"][0]["acceptance_rate"] is None
    assert report["rows"][2]["outputs_equal"] is None and report["rows"][2]["simulated"] is True
    assert list(tmp_path.iterdir()) == [file]


def test_modelled_rows_begin_with_plain_decoding_and_are_simulated() -> None:
    plain, oracle = modelled_rows("none", 2, 30, 50.0, {"oracle": 1.5})
    assert (plain.method, plain.speedup, oracle.method) == ("plain", 1.0, "oracle")
    assert (oracle.tokens_per_second, oracle.speedup) == (75.0, 1.5)
    assert plain.simulated and oracle.simulated and oracle.outputs_equal is None


def test_dash_is_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    write_report(build_report([], {}), "-")
    assert json.loads(capsys.readouterr().out)["rows"] == []


def test_a_folder_that_does_not_exist_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a folder that exists"):
        check_destination(str(tmp_path / "none" / "x.json"))
    with pytest.raises(InputError, match="a folder that exists"):
        check_destination(str(tmp_path))
    check_destination(str(tmp_path / "x.json"))
    check_destination("-")
    check_destination(None)


def test_row_without_speedup_keeps_the_rest() -> None:
    row = rows()[1].without_speedup()
    assert math.isnan(row.speedup) and math.isnan(row.speedup_low) and row.tokens_per_second == 90.0


def test_table_fits_80_columns_and_shows_speedups_and_near_ties() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(results_table([replace(row, task="mathematics") for row in rows()]))
    lines = console.export_text().splitlines()
    (controller,) = [line for line in lines if "controller" in line]
    assert controller.split()[-3:] == ["1.80x", "no", "(1≈)"]
    assert len([line for line in lines if line.strip()]) == 2 + 3
    assert "oracle*" in lines[-1] or "oracle*" in lines[-2]
