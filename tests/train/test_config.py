"""The training config."""

import subprocess
import sys
from pathlib import Path

import pytest

from specbound.cli.parsing import parse_config
from specbound_controller.errors import InputError
from specbound_train.config import TrainConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_units", 0),
        ("score_hidden_units", 1000),
        ("epochs", 0),
        ("max_rounds", 0),
        ("validation_share", 0.9),
        ("exploration", 0.0),
        ("learning_rate", -1.0),
        ("weight_decay", 99.0),
        ("widths", ()),
        ("widths", (4, 2)),
        ("widths", (0, 2)),
        ("widths", (2, 100)),
        ("thresholds", (0.0, 0.5)),
        ("thresholds", (0.7, 0.5)),
        ("logger", "printer"),
    ],
)
def test_values_out_of_range_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InputError, match=field):
        TrainConfig(log="log", out="out", **{field: value})  # type: ignore[arg-type]


def test_one_log_or_several_on_the_command_line_and_in_a_file(tmp_path: Path) -> None:
    for text, logs in (("runs/a", ("runs/a",)), ("[runs/a, runs/b]", ("runs/a", "runs/b"))):
        (tmp_path / "train.yaml").write_text(f"log: {text}\nout: runs/c\n")
        assert parse_config(TrainConfig, "train", ["--config", str(tmp_path / "train.yaml")]).logs == logs
        option = ",".join(logs)
        assert parse_config(TrainConfig, "train", ["--log", option, "--out", "runs/c"]).logs == logs
    with pytest.raises(InputError, match="log must name one folder or several different ones"):
        parse_config(TrainConfig, "train", ["--log", "runs/a,runs/a", "--out", "runs/c"])


def test_config_imports_no_torch() -> None:
    code = "import sys, specbound_train.config, specbound_train.train; print('torch' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_path())
    assert output.stdout.strip() == "False"


def _path() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
