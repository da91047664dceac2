"""Config dataclass <-> options and YAML."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from specbound.cli.parsing import build_parser, field_docs, parse_config
from specbound_controller.errors import InputError


@dataclass(frozen=True, slots=True)
class TrialConfig:
    """A trial."""

    out: str
    """Where to write."""
    exit_layers: Literal["auto"] | tuple[int, ...] = "auto"
    """Layers that draft,
    shallow to deep."""
    compression: tuple[str, ...] = ("none",)
    """Levels."""
    num_prompts: int | None = None
    """How many."""
    rate: float = 0.5
    """Above 0."""
    stream: bool = False
    """Print."""

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError(f"rate must be > 0, got {self.rate}")


@dataclass(frozen=True, slots=True)
class WiderConfig(TrialConfig):
    """A trial with one more option."""

    threads: int = 1
    """CPU threads."""


def parse(*argv: str) -> TrialConfig:
    return parse_config(TrialConfig, "trial", argv)


def error(*argv: str) -> str:
    with pytest.raises(InputError) as caught:
        parse(*argv)
    return str(caught.value)


@pytest.fixture
def yaml_file(tmp_path: Path) -> Path:
    path = tmp_path / "trial.yaml"
    path.write_text("out: here\nexit_layers: [2, 3]\nrate: 0.25\nstream: true\n")
    return path


def test_defaults_are_the_dataclass_s() -> None:
    assert parse("--out", "x") == TrialConfig("x")


def test_underscores_become_dashes_and_commas_become_tuples() -> None:
    config = parse("--out", "x", "--exit-layers", "2,3", "--compression=none,bf16", "--num-prompts", "5", "--stream")
    assert config == TrialConfig("x", (2, 3), ("none", "bf16"), 5, 0.5, True)


def test_one_value_is_a_tuple_of_one_and_a_word_stays_a_word() -> None:
    assert parse("--out", "x", "--exit-layers", "4").exit_layers == (4,)
    assert parse("--out", "x", "--exit-layers", "auto").exit_layers == "auto"


def test_yaml_sets_fields(yaml_file: Path) -> None:
    assert parse("--config", str(yaml_file)) == TrialConfig("here", (2, 3), rate=0.25, stream=True)


@pytest.mark.parametrize("is_config_first", [True, False])
def test_an_option_wins_over_yaml_wherever_it_stands(yaml_file: Path, is_config_first: bool) -> None:
    config, options = ["--config", str(yaml_file)], ["--rate", "0.75", "--no-stream"]
    parsed = parse(*(config + options if is_config_first else options + config))
    assert (parsed.rate, parsed.stream, parsed.exit_layers) == (0.75, False, (2, 3))


def test_unknown_yaml_key_names_file_and_nearest_key(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("out: x\nexit_layer: [2]\n")
    assert error("--config", str(path)) == f"{path}: unknown key 'exit_layer'; the nearest valid one is 'exit_layers'"


def test_unknown_key_without_a_near_one_names_all(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("zzz: 1\n")
    assert "valid are out, exit_layers," in error("--config", str(path))


def test_unknown_option_names_the_nearest() -> None:
    assert (
        error("--out", "x", "--num-promts", "3")
        == "unknown option '--num-promts'; the nearest valid one is '--num-prompts'"
    )


def test_a_word_too_many_is_named_and_lists_say_how_they_are_written() -> None:
    assert error("x") == "'x' is the value of no option" == error("--out", "y", "x")
    assert error("--out", "x", "--exit-layers", "2", "3") == (
        "'3' is the value of no option: values of --exit-layers are separated by commas, --exit-layers 2,3"
    )


def test_value_with_spaces_that_looks_like_an_option_is_a_value() -> None:
    assert "unknown option" not in error("--out", "--a b c", "--rate", "0")


def test_wrong_type_names_option_type_and_value() -> None:
    assert error("--out", "x", "--num-prompts", "many") == "--num-prompts must be int or null, got 'many'"
    assert error("--out", "x", "--exit-layers", "2,x").startswith("--exit-layers must be auto or int,int,..., got ")


def test_wrong_value_in_yaml_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("out: x\nrate: -1\n")
    assert error("--config", str(path)) == f"rate must be > 0, got -1.0 ({path})"
    path.write_text("out: x\nrate: fast\n")
    assert error("--config", str(path)) == f"--rate must be float, got 'fast' ({path})"


def test_missing_required_option_is_named() -> None:
    assert error() == "--out is required; see specbound trial --help"


@pytest.mark.parametrize("text", ["out: [1", "- a\n- b", "just words", "\x00"])
def test_broken_yaml_is_one_input_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    assert str(path) in error("--config", str(path))


def test_missing_config_file_is_named(tmp_path: Path) -> None:
    assert str(tmp_path / "none.yaml") in error("--config", str(tmp_path / "none.yaml"))
    assert error("--config") == "--config must be followed by a file"


def test_field_docstrings_are_the_help() -> None:
    assert field_docs(TrialConfig)["exit_layers"] == "Layers that draft, shallow to deep."
    assert "Where to write." in build_parser(TrialConfig, "trial").format_help()


def test_a_config_keeps_the_options_and_help_texts_of_the_one_it_extends() -> None:
    assert parse_config(WiderConfig, "trial", ["--out", "x", "--threads", "2"]).threads == 2
    assert field_docs(WiderConfig) == field_docs(TrialConfig) | {"threads": "CPU threads."}
