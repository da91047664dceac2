"""`python -m specbound.bench.micro segments`: one line for each run of layers, whose results it compares."""

from pathlib import Path

import pytest

from specbound.bench.micro import segments as micro_segments
from specbound.decoding.model.segments import StaticSegments
from tests.decoding.tape import tape_capture


def test_table_has_a_line_for_each_run_of_layers_and_compares_results(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(micro_segments, "_inductor", tape_capture)  # a build of seconds is not what is tested
    model = str(tiny_model_dir)
    micro_segments.segments(model, exit_layer=1, rows=(1, 3), context=12, num_rounds=2)
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert [(line[0].strip("| "), line[1]) for line in lines] == [
        ("0–1", "1"),
        ("1–4", "1"),
        ("1–4", "3"),
        ("0–4", "1"),
    ]
    assert all(float(line[5]) > 0 for line in lines)

    run = StaticSegments.run
    monkeypatch.setattr(StaticSegments, "run", lambda *arguments: run(*arguments) + 1)
    micro_segments.segments(model, exit_layer=1, rows=(), context=12, num_rounds=2)
    assert " | no | " in capsys.readouterr().out
