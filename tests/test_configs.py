"""Every shipped YAML loads into the config class of its stage."""

from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from specbound.cli.parsing import parse_config
from specbound.cli.shipped import shipped_config
from specbound_train.config import TrainConfig
from specbound_train.demo.__main__ import stage_configs
from specbound_train.demo.pretrain import PretrainConfig

CONFIG_CLASSES = {
    "profile.yaml": "specbound_profiling.recording.config:ProfileConfig",
    "train.yaml": "specbound_train.config:TrainConfig",
    "train_without_compression.yaml": "specbound_train.config:TrainConfig",
    "train_one_level.yaml": "specbound_train.config:TrainConfig",
    "train_exits.yaml": "specbound_train.exits.config:TrainExitsConfig",
    "tune.yaml": "specbound_train.tuning.config:TuneConfig",
    "write.yaml": "specbound.stores.write_config:WriteConfig",
    "replay.yaml": "specbound.analysis.replay_config:ReplayConfig",
    "report.yaml": "specbound_profiling.report.config:ReportConfig",
    "sensitivity.yaml": "specbound.analysis.studies_config:SensitivityConfig",
    "ablation.yaml": "specbound.analysis.studies_config:AblationConfig",
    "generate.yaml": "specbound.generation.config:GenerateConfig",
    "serve.yaml": "specbound.serve.config:ServeConfig",
    "verify.yaml": "specbound.evaluation.verify_config:VerifyConfig",
    "evaluate.yaml": "specbound.evaluation.config:EvaluateConfig",
    "bench.yaml": "specbound.bench.config:BenchConfig",
    "results.yaml": "specbound.bench.suite.config:SuiteConfig",
    "demo.yaml": "specbound.demo.config:DemoConfig",
    "demo_quick.yaml": "specbound.demo.config:DemoConfig",
    "demo_full.yaml": "specbound.demo.config:DemoConfig",
    "demo_smollm2.yaml": "specbound.demo.config:DemoConfig",
}
FOLDER = Path(__file__).resolve().parents[1] / "configs"


DEMO_MODEL = "demo_model.yaml"
"""Of `python -m specbound_train.demo`, which is no command of specbound's."""


def test_no_yaml_is_left_out() -> None:
    assert {path.name for path in FOLDER.glob("*.yaml")} == {*CONFIG_CLASSES, DEMO_MODEL}


def test_yaml_of_the_demonstration_model_loads_with_its_rounds() -> None:
    config = PretrainConfig(**yaml.safe_load((FOLDER / DEMO_MODEL).read_text()))
    stages = stage_configs(config)
    assert list(stages) == ["main", "round1", "shallow", "twin"]
    assert stages["round1"].exits_per_step == 3 and stages["main"].exits_per_step == 1
    assert stages["round1"].exit_layers != stages["main"].exit_layers


@pytest.mark.parametrize("name", CONFIG_CLASSES)
def test_yaml_loads(name: str) -> None:
    module, config_class = CONFIG_CLASSES[name].split(":")
    parse_config(getattr(import_module(module), config_class), name, ["--config", str(FOLDER / name)])


def test_training_yaml_spells_out_the_defaults() -> None:
    """So that a default that changes later does not change what was published."""
    options = ["--config", str(FOLDER / "train.yaml")]
    assert parse_config(TrainConfig, "train", options) == TrainConfig(
        log="runs/log,runs/sampled", out="runs/controller"
    )
    left_out = {field.name for field in fields(TrainConfig)} - set(yaml.safe_load((FOLDER / "train.yaml").read_text()))
    assert left_out == {"overwrite", "resume"}


def test_shipped_config_is_found_in_a_checkout() -> None:
    assert shipped_config("demo.yaml").samefile(FOLDER / "demo.yaml")
