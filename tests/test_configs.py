"""Every shipped YAML loads into the config class of its stage."""

from importlib import import_module
from pathlib import Path

import pytest

from specbound.cli.parsing import parse_config
from specbound.config import shipped_config

CONFIG_CLASSES = {
    "profile.yaml": "specbound_profiling.config:ProfileConfig",
    "train.yaml": "specbound_train.config:TrainConfig",
    "replay.yaml": "specbound.replay_config:ReplayConfig",
    "report.yaml": "specbound_profiling.report.config:ReportConfig",
    "sensitivity.yaml": "specbound.studies_config:SensitivityConfig",
    "ablation.yaml": "specbound.studies_config:AblationConfig",
    "generate.yaml": "specbound.config:GenerateConfig",
    "verify.yaml": "specbound.config:VerifyConfig",
    "evaluate.yaml": "specbound.evaluate_config:EvaluateConfig",
    "demo.yaml": "specbound.config:DemoConfig",
    "demo_quick.yaml": "specbound.config:DemoConfig",
    "demo_full.yaml": "specbound.config:DemoConfig",
}
FOLDER = Path(__file__).resolve().parents[1] / "configs"


def test_no_yaml_is_left_out() -> None:
    assert {path.name for path in FOLDER.glob("*.yaml")} == set(CONFIG_CLASSES)


@pytest.mark.parametrize("name", CONFIG_CLASSES)
def test_yaml_loads(name: str) -> None:
    module, config_class = CONFIG_CLASSES[name].split(":")
    parse_config(getattr(import_module(module), config_class), name, ["--config", str(FOLDER / name)])


def test_shipped_config_is_found_in_a_checkout() -> None:
    assert shipped_config("demo.yaml").samefile(FOLDER / "demo.yaml")
