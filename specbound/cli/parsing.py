"""From a frozen config dataclass to command-line options and YAML keys, and back to the dataclass.

Knows no command. The fields' docstrings are the help texts; the defaults live in the dataclass only.
"""

import argparse
import ast
import dataclasses
import difflib
import inspect
import itertools
import json
import math
import re
import sys
import textwrap
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from jsonargparse import ActionYesNo, ArgumentParser

from specbound.models.names import joined_name
from specbound_controller.errors import InputError
from specbound_controller.text_files import read_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MAX_INTEGER = 2**53
"""Largest number that an option takes; seeds and counts beyond it are mistakes, and no float holds them exactly."""

C = TypeVar("C", bound="DataclassInstance")

GGUF_FILE = "gguf_file"
"""Option of every config with a model; both become one name."""
GGUF_HELP = "GGUF file of the folder or Hugging Face repository that --model names (extra gguf)."


def parse_config(config_class: type[C], command: str, argv: Sequence[str]) -> C:
    """The config that `argv` and the YAML file it may name describe. Raises InputError with one line.

    The order is: defaults of the dataclass, then `--config FILE`, then options.
    """
    file, options = _take_config_option(argv)
    parser = build_parser(config_class, command)
    options = _bracket_tuples(options, config_class)
    _refuse_unknown(options, parser)
    _refuse_stray(options, parser, config_class)
    origin = f" ({file})" if file else ""
    try:
        from_file = parser.parse_object(load_yaml(file, config_class) if file else {})
    except argparse.ArgumentError as error:
        raise InputError(_readable(error, config_class) + origin) from None
    try:
        namespace = parser.parse_args(options, namespace=from_file)
    except argparse.ArgumentError as error:
        raise InputError(_readable(error, config_class)) from None
    for field in dataclasses.fields(config_class):
        if not _has_default(field) and namespace[field.name] is None:
            raise InputError(f"{_flag(field.name)} is required{origin}; see specbound {command} --help")
    values = {field.name: namespace[field.name] for field in dataclasses.fields(config_class)}
    if GGUF_FILE in namespace and namespace[GGUF_FILE] is not None:
        values["model"] = joined_name(values["model"] or "", namespace[GGUF_FILE])
    for field in dataclasses.fields(config_class):
        _refuse_senseless(field.name, values[field.name])
        if values[field.name] == () != _default(field):
            raise InputError(f"{_flag(field.name)} must not be empty")
    try:
        return config_class(**values)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{error}{origin}") from None


def _refuse_senseless(name: str, value: Any) -> None:
    """Raises InputError for what no option can mean: an empty text, a number that is none, or beyond all counting."""
    flag = _flag(name)
    if isinstance(value, tuple | list):
        for each in value:
            _refuse_senseless(name, each)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{flag} must be a finite number, got {value}")
    elif isinstance(value, int) and name.endswith("exit_layers") and value < 0:
        raise InputError(f"{flag} must be >= 0, got {value}")
    elif isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise InputError(f"{flag} must be at most {MAX_INTEGER}, got {_short(value)}")
    elif isinstance(value, str) and (not value or "\0" in value):
        raise InputError(f"{flag} must not be empty" if not value else f"{flag} must not hold a null character")


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def build_parser(config_class: type, command: str) -> ArgumentParser:
    """One option for each field: `exit_layers` becomes `--exit-layers`."""
    summary = (inspect.getdoc(config_class) or "").split("\n\n")[0]
    parser = ArgumentParser(prog=f"specbound {command}", description=summary, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE", help="YAML with the same names; options on the command line win")
    hints, texts = typing.get_type_hints(config_class), field_docs(config_class)
    for field in dataclasses.fields(config_class):
        options: dict[str, Any] = {"help": texts.get(field.name, ""), "default": _default(field)}
        if hints[field.name] is bool:
            options |= {"action": ActionYesNo(yes_prefix="", no_prefix="no-")}
        else:
            options |= {"type": hints[field.name], "metavar": field.name.split("_")[-1].upper()}
        parser.add_argument(_flag(field.name), **options)
    if _has_model(config_class):
        parser.add_argument(_flag(GGUF_FILE), type=str | None, default=None, metavar="FILE", help=GGUF_HELP)
    return parser


def field_docs(config_class: type) -> dict[str, str]:
    """The docstring below each field, inherited ones included. Empty where the source cannot be read.

    `{NAMES}` stands for the names that the config's module holds under that name.
    """
    inherited = {
        name: text for base in config_class.__bases__ if base is not object for name, text in field_docs(base).items()
    }
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(config_class)))
    except (OSError, TypeError):
        return inherited
    body = typing.cast(ast.ClassDef, tree.body[0]).body
    known = vars(sys.modules[config_class.__module__])
    return inherited | {
        node.target.id: re.sub(
            r"\{([A-Z_]+)\}", lambda name: ", ".join(known[name[1]]), " ".join(str(text.value.value).split())
        )
        for node, text in itertools.pairwise(body)
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }


def load_yaml(path: Path, config_class: type) -> dict[str, Any]:
    """The keys and values of a YAML file, each key a field of the config. Raises InputError."""
    try:
        text = read_text(path.expanduser())
    except InputError as error:
        raise InputError(f"--config must name a readable file: {error}") from None
    try:
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f":{error.problem_mark.line + 1}"
        raise InputError(f"{path}{line} must be valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none
        raise InputError(f"{path} must be valid YAML: {error}") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold keys and values, got {type(values).__name__}")
    names = [field.name for field in dataclasses.fields(config_class)]
    names += [GGUF_FILE] if _has_model(config_class) else []
    for key in values:
        if key not in names:
            raise InputError(f"{path}: unknown key {key!r}{nearest(str(key), names)}")
    return values


def nearest(name: str, names: Iterable[str]) -> str:
    """`; the nearest valid one is 'x'`, or all valid names where none is near."""
    names = list(names)
    matches = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; the nearest valid one is {matches[0]!r}" if matches else f"; valid are {', '.join(names)}"


def _has_model(config_class: type) -> bool:
    """Whether a config names a model, which may then be a GGUF file of a folder or a repository."""
    return any(field.name == "model" for field in dataclasses.fields(config_class))


def gathered(argv: Sequence[str], flag: str) -> list[str]:
    """The command line with all values of a repeated option in one list: a value may hold commas and brackets."""
    others, values = [], []
    options = iter(argv)
    for option in options:
        name, equals, value = option.partition("=")
        if name != flag:
            others.append(option)
        elif equals:
            values.append(value)
        else:
            values.append(next(options, ""))
    return [*others, flag, json.dumps(values)] if values else others


def _take_config_option(argv: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The file after `--config`, and the other options: the file comes before them, wherever it stands."""
    border = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    border.add_argument("--config", type=Path)
    try:
        known, options = border.parse_known_args(list(argv))
    except argparse.ArgumentError:
        raise InputError("--config must be followed by a file") from None
    return known.config, options


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _bracket_tuples(options: Sequence[str], config_class: type) -> list[str]:
    """`--exit-layers 2,3` -> `--exit-layers [2,3]` where the field holds a tuple; the word `auto` stays a word."""
    tuples = {_flag(name) for name, hint in typing.get_type_hints(config_class).items() if _holds_tuple(hint)}
    bracketed: list[str] = []
    for option in options:
        flag, equals, value = option.partition("=")
        if flag in tuples and equals:
            bracketed += [flag, _bracket(value)]
        else:
            bracketed.append(_bracket(option) if bracketed and bracketed[-1] in tuples else option)
    return bracketed


def _bracket(value: str) -> str:
    return value if value == "auto" or value.startswith("[") else f"[{value}]"


def _holds_tuple(hint: Any) -> bool:
    return typing.get_origin(hint) is tuple or any(_holds_tuple(argument) for argument in typing.get_args(hint))


def _refuse_unknown(options: Sequence[str], parser: ArgumentParser) -> None:
    known = [name for action in parser._actions for name in action.option_strings]
    for previous, option in itertools.pairwise(["", *options]):
        flag = option.partition("=")[0]
        is_value = previous.startswith("--") and "=" not in previous and " " in option
        if flag.startswith("--") and flag not in known and not is_value:
            raise InputError(f"unknown option {flag!r}{nearest(flag, known)}")


def _refuse_stray(options: Sequence[str], parser: ArgumentParser, config_class: type) -> None:
    """Words that are no option's value; after an option with a list it is said how its values are written."""
    valueless = {name for action in parser._actions if action.nargs == 0 for name in action.option_strings}
    valueless |= {_flag(name) for name, hint in typing.get_type_hints(config_class).items() if hint is bool}
    lists = {_flag(name) for name, hint in typing.get_type_hints(config_class).items() if _holds_tuple(hint)}
    flag, value, waits = "", "", False
    for option in options:
        if waits:
            value, waits = option.strip("[]"), False
        elif option.startswith("--"):
            flag, _, value = option.partition("=")
            waits = "=" not in option and flag not in valueless and not flag.startswith("--no-")
        else:
            advice = f": values of {flag} are separated by commas, {flag} {value},{option}" if flag in lists else ""
            raise InputError(f"{option!r} is the value of no option{advice}")


def _readable(error: argparse.ArgumentError, config_class: type) -> str:
    """One line from jsonargparse's many: the name, the type, the value."""
    text = str(error)
    key, value = re.search(r'key "(\w+)"', text), re.search(r"(?:Given|Got) value: (.*)", text)
    if key is None or key[1] not in typing.get_type_hints(config_class):
        return text
    wanted = _in_words(typing.get_type_hints(config_class)[key[1]])
    return f"{_flag(key[1])} must be {wanted}" + (f", got {value[1]!r}" if value else f": {text}")


def _in_words(hint: Any) -> str:
    """`Literal["auto"] | tuple[int, ...]` -> `auto or int,int,...`."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        return f"{_in_words(arguments[0])},{_in_words(arguments[0])},..."
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(str, arguments))
    if arguments:
        return " or ".join(_in_words(argument) for argument in arguments)
    return "null" if hint is type(None) else str(getattr(hint, "__name__", hint))
