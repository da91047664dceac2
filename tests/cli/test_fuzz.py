"""The command line against every option of every command with values that mean nothing: one line, exit code 2, no file.

The cases are made from the config classes, so that an option that is added is tried too. What can be found out while
the options are read is tried in this process, a part of it by default and all of it in the slow run; files in the place
of folders and the like go through whole commands.
"""

import dataclasses
import functools
import importlib
import itertools
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from specbound.cli import parsing
from specbound.cli.demo import with_sizes
from specbound.cli.generate import gathered, with_message
from specbound.cli.main import COMMANDS
from specbound.cli.parsing import parse_config
from specbound_controller.errors import InputError

HUGE = str(10**30)
CONFIGS = {
    "profile": ("specbound.cli.profile", "ProfileCommand", "--out o"),
    "train-controller": ("specbound.cli.train_controller", "TrainCommand", "--log l --out o"),
    "train-exits": ("specbound.cli.train_exits", "TrainExitsCommand", "--own-text t --out o"),
    "tune": ("specbound_train.tuning.config", "TuneConfig", "--log l --out o"),
    "fit": ("specbound.fit.config", "FitConfig", "--model demo --out o"),
    "costs": ("specbound.pricing.config", "CostsConfig", "--out o"),
    "replay": ("specbound.analysis.replay_config", "ReplayConfig", "--log l"),
    "report": ("specbound.cli.report", "ReportCommand", "--log l --out o"),
    "sensitivity": ("specbound.analysis.studies_config", "SensitivityConfig", "--log l --out o"),
    "ablation": ("specbound.analysis.studies_config", "AblationConfig", "--log l --out o"),
    "generate": ("specbound.generation.config", "GenerateConfig", "--prompt p"),
    "convert": ("specbound.models.convert_config", "ConvertConfig", "--model m.gguf --out o"),
    "chat": ("specbound.chat.config", "ChatConfig", ""),
    "serve": ("specbound.serve.config", "ServeConfig", ""),
    "export-generate": ("specbound.generation.export_config", "ExportConfig", "--out o"),
    "write": ("specbound.stores.write_config", "WriteConfig", "--out o --prompts demo"),
    "verify": ("specbound.evaluation.verify_config", "VerifyConfig", ""),
    "evaluate": ("specbound.evaluation.config", "EvaluateConfig", ""),
    "bench": ("specbound.bench.config", "BenchConfig", ""),
    "bench-serve": ("specbound.bench.load.config", "LoadConfig", "--out o"),
    "demo": ("specbound.demo.config", "DemoConfig", ""),
    "prompts": ("specbound_profiling.prompts.training.config", "PromptsConfig", "--sources s --out o"),
    "results": ("specbound.bench.suite.config", "SuiteConfig", "--out o"),
}
"""Command -> where its config stands, and the options that it needs."""
PREPARED: dict[str, Callable[[Sequence[str]], list[str]]] = {
    "demo": with_sizes,
    "generate": lambda argv: gathered(with_message(argv), "--stop"),
}
"""What a command does with its options before they are read."""

NO_NUMBER = ("", "x", "1x", "[", "{}", "--5", "1 2", "null null")
NO_VALUE = ("nan", "inf", "-inf", "1e400", HUGE, f"-{HUGE}", "-1")
UNBOUNDED = ("alpha", "alphas", "temperature", "temperatures", "max_seconds")
"""Numbers that may be as large as one likes."""
NO_TRUTH = ("maybe", "2", "[]")
LONG = "x" * 5000


def config_class(command: str) -> type[Any]:
    module, name, _ = CONFIGS[command]
    found: type[Any] = getattr(importlib.import_module(module), name)
    return found


def kinds(hint: Any) -> set[Any]:
    """The plain types that a field may hold, inside tuples too; literals as the type of their words."""
    if typing.get_origin(hint) is typing.Literal:
        return {type(word) for word in typing.get_args(hint)}
    inner = typing.get_args(hint)
    return {kind for each in inner for kind in kinds(each)} if inner else {hint}


def wrong_values(name: str, hint: Any) -> tuple[str, ...]:
    """What a field can never mean."""
    found = kinds(hint) - {type(None), Ellipsis}
    if found & {int, float}:
        return (*NO_NUMBER, *(value for value in NO_VALUE if value != HUGE or name not in UNBOUNDED))
    return NO_TRUTH if found == {bool} else ("",)


def cases() -> Iterator[tuple[str, str, str]]:
    """Command, field, value."""
    for command in CONFIGS:
        hints = typing.get_type_hints(config_class(command))
        for field in dataclasses.fields(config_class(command)):
            for value in wrong_values(field.name, hints[field.name]):
                if value or field.default != ():  # an empty list may be the default
                    yield command, field.name, value


ALL_CASES = list(cases())
SAMPLE = ALL_CASES[:: 1 + len(ALL_CASES) // 250]


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def argv_of(command: str, name: str, *value: str) -> list[str]:
    """The options of a command with one of them changed."""
    needed = CONFIGS[command][2].split()
    pairs = [pair for pair in zip(needed[::2], needed[1::2], strict=True) if pair[0] != flag(name)] if needed else []
    return [*itertools.chain.from_iterable(pairs), *([f"{flag(name)}={value[0]}"] if value else [flag(name)])]


def refusal(command: str, argv: Sequence[str]) -> str:
    """The line that refuses, or nothing. Any other error is raised."""
    prepare = PREPARED.get(command, list)
    try:
        parse_config(config_class(command), command, prepare(argv))
    except InputError as error:
        return " ".join(str(error).split())
    return ""


@pytest.fixture(autouse=True, scope="module")
def parsers_are_built_once() -> Iterator[None]:
    """Building one takes longer than using it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("build_parser", "field_docs"):
            patch.setattr(parsing, name, functools.cache(getattr(parsing, name)))
        yield


def test_every_command_has_a_config_here() -> None:
    assert set(CONFIGS) == set(COMMANDS)


def assert_refused(command: str, name: str, *value: str) -> None:
    line = refusal(command, argv_of(command, name, *value))
    where = f"specbound {command} {flag(name)}={value}"
    assert line, f"{where} was taken"
    assert name in line.replace("-", "_"), f"{where} is refused without its name: {line}"
    assert len(line) < 700 and "Traceback" not in line, where


@pytest.mark.parametrize("command", CONFIGS)
def test_an_option_without_a_value_is_refused(command: str) -> None:
    hints = typing.get_type_hints(config_class(command))
    fields = [f.name for f in dataclasses.fields(config_class(command)) if hints[f.name] is not bool]
    for name in fields[:: 1 + len(fields) // 4]:
        assert refusal(command, argv_of(command, name)), name


def test_values_that_mean_nothing_are_refused_by_the_name_of_their_option() -> None:
    for case in SAMPLE:
        assert_refused(*case)


@pytest.mark.slow
@pytest.mark.parametrize("command", CONFIGS)
def test_every_value_that_means_nothing_is_refused_by_the_name_of_its_option(command: str) -> None:
    for case in ALL_CASES:
        if case[0] == command:
            assert_refused(*case)
