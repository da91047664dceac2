"""`specbound costs` through the command line, and what it writes."""

import json
from pathlib import Path

import pytest

from specbound.cli.main import main
from specbound.pricing.local import given_costs
from specbound_controller.costs import WORK_NAMES
from specbound_profiling.log.manifest import read_cost_file

SMALL = ("--num-steps", "30", "--max-seconds", "20")


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "prompts.jsonl"
    texts = ("the cat sat on the mat", "a dog ran", "def return ( ) :")
    path.write_text("".join(json.dumps({"prompt": text, "prompt_id": text[:5]}) + "\n" for text in texts))
    return str(path)


def test_tables_are_printed_and_written_for_other_commands(
    tiny_model_dir: Path, prompts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plot = tmp_path / "here.json", tmp_path / "plot.png"
    arguments = ["costs", "--model", str(tiny_model_dir), "--prompts", prompts, *SMALL]
    assert main([*arguments, "--out", str(out), "--plot", str(plot)]) == 0
    printed = capsys.readouterr().out
    assert all(name.replace("_", " ") in printed for name in WORK_NAMES)
    table = given_costs(out, "none")
    assert table.num_steps >= 30 and table.exactness == "token"
    assert all(table.coefficients[name] > 0 for name in ("layer_calls_rows_1", "exit_tests", "learned_scores"))
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert main([*arguments, "--out", str(out), "--compression", "bf16"]) == 0
    tables = read_cost_file(out)
    assert {level: each.exactness for level, each in tables.items()} == {"none": "token", "bf16": "bitwise"}
    assert tables["none"] == table


def test_check_compares_every_kind_with_live_decoding(
    tiny_model_dir: Path, prompts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["costs", "--model", str(tiny_model_dir), "--prompts", prompts, "--check-prompts", prompts, *SMALL]
    code = main([*arguments, "--check", "--num-check-prompts", "2", "--json", "-"])
    report = json.loads(capsys.readouterr().out)
    kinds = report["checks"]["none"]
    assert [kind["kind"] for kind in kinds][:2] == ["plain", "exit1_width2"]
    assert all(kind["live_s"] > 0 and kind["predicted_s"] > 0 for kind in kinds)
    assert code == (0 if all(abs(kind["ratio"] - 1) <= 0.1 for kind in kinds) else 1)
    assert set(report["costs"]["none"]["coefficients"]) == set(WORK_NAMES)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ((), "give --out FILE, --log DIR or --check"),
        (("--out", "x.json", "--compression", "fp8"), "compression must be one of"),
        (("--out", "x.json", "--num-steps", "3"), "num_steps must be >= 30"),
        (("--out", "no/such/folder/x.json"), "out must name a file in a folder that exists"),
        (("--log", "no-log"), "no-log"),
    ],
)
def test_bad_input_is_one_line(options: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["costs", *options]) == 2
    error = capsys.readouterr().err.strip()
    assert reason in error and "\n" not in error
