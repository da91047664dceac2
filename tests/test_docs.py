"""What the pages say can be done as they say it: links lead somewhere, commands and options exist, examples run."""

import contextlib
import functools
import importlib.util
import inspect
import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import specbound
from specbound.bench.gpu.__main__ import parser as gpu_parser
from specbound.cli.main import COMMANDS
from specbound.cli.parsing import build_parser, parse_config
from tests.test_imports import source_environment

ROOT = Path(__file__).resolve().parents[1]
API = ROOT / "docs" / "api.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CURRENT = [page for page in PAGES if page.name not in ("history.md", "CHANGELOG.md")]
"""Pages whose commands have to exist; the two others tell of what was."""

OTHER_PROGRAMS = {
    *("--num-processes", "--share", "--state", "--tokens", "--write"),
    *(name for action in gpu_parser()._actions for name in action.option_strings),
}
"""Options that sentences name and no command has: of `specbound_train.demo`, `tests.random_trials`, `make gpu`."""


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


# links


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    kept = "".join(c for c in heading.lower().replace("`", "") if c.isalnum() or c in " -_")
    return kept.strip().replace(" ", "-")


def links(text: str) -> list[str]:
    """Targets of Markdown links and images, code left out."""
    text = re.sub(r"```.*?```", "", text, flags=re.S)
    text = re.sub(r"(?m)^    .*$", "", text)
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "x", text))


def broken_links(page: Path, text: str) -> list[str]:
    broken = []
    for link in links(text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or not target.is_relative_to(ROOT):
            broken.append(link)
        elif anchor:
            headings = re.findall(r"(?m)^#+ (.*)$", target.read_text(encoding="utf-8"))
            broken += [link] * (anchor not in map(slug, headings))
    return broken


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert not broken_links(page, page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("link", ["[x](docs/nothing.md)", "[x](docs/results.md#no-such-heading)", "![x](gone.svg)"])
def test_a_broken_link_is_seen(link: str) -> None:
    assert broken_links(ROOT / "README.md", link)


def test_every_page_is_reached_from_the_readme() -> None:
    seen, waiting = set[Path](), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md" or not page.is_relative_to(ROOT):
            continue
        seen.add(page)
        paths = [link.partition("#")[0] for link in links(page.read_text(encoding="utf-8"))]
        waiting += [(page.parent / path).resolve() for path in paths if path and not re.match(r"[a-z]+:", path)]
    assert not set(PAGES) - seen


# commands


def code_lines(text: str) -> list[str]:
    """Lines of code blocks (fenced or indented), comments cut off, continued lines joined."""
    fenced = "\n".join(re.findall(r"(?m)^```.*\n((?:.*\n)*?)```", text))
    indented = "\n".join(line.strip() for line in text.splitlines() if line.startswith("    "))
    joined = re.sub(r"\\\n\s*", " ", f"{fenced}\n{indented}")
    return [line.partition(" # ")[0].strip() for line in joined.splitlines() if line.strip()]


def inline_code(text: str) -> list[str]:
    """What stands in backticks within prose."""
    prose = re.sub(r"(?m)^```.*\n(?:.*\n)*?```", "", text)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", re.sub(r"(?m)^    .*$", "", prose))]


def words_after(line: str, *start: str) -> list[str] | None:
    """The words of a shell line after `start`, up to a pipe or redirection; None where it does not begin so."""
    line = re.sub(r"^(\w+=\S+ )+", "", line)
    if not line.startswith(" ".join(start) + " "):
        return None
    words = shlex.split(line)[len(start) :]
    return list(itertools.takewhile(lambda word: word not in ("|", "<", ">", "&&"), words))


class _ParsedError(Exception):
    """Stops a command once its options are understood."""


def parse(name: str, options: list[str]) -> None:
    """Lets a command read its options with its own parser, and do nothing. Raises InputError for what it refuses."""
    module, function = COMMANDS[name][0].split(":")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{module}.parse_config", _parse_only)
        with pytest.raises(_ParsedError):
            getattr(import_module(module), function)(options)


def _parse_only(config_class: Any, command: str, argv: list[str]) -> None:
    parse_config(config_class, command, argv)
    raise _ParsedError


def options_of(name: str) -> set[str]:
    """All options of a command."""
    found: list[Any] = []
    module, function = COMMANDS[name][0].split(":")

    def keep(config_class: Any, command: str, argv: list[str]) -> None:
        found.append(build_parser(config_class, command))
        raise _ParsedError

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(_ParsedError):
        patch.setattr(f"{module}.parse_config", keep)
        getattr(import_module(module), function)([])
    return {option for action in found[0]._actions for option in action.option_strings} | {"--debug", "--quick"}


def check_micro(words: list[str]) -> None:
    """A small measurement and its options. Raises AssertionError."""
    from specbound.bench.micro import __main__ as micro

    name = words[0].replace("-", "_") if words else ""
    measure = getattr(micro, name, None)
    assert inspect.isfunction(measure), f"python -m specbound.bench.micro {words[:1]} does not exist"
    options = {word.lstrip("-").replace("-", "_") for word in words if word.startswith("--")}
    assert options <= set(inspect.signature(measure).parameters), f"{name} takes not all of {options}"


def check_module(words: list[str]) -> None:
    """A module that Python can run, and, where it is ours, its options. Raises AssertionError."""
    module, options = words[0], words[1:]
    if module.startswith("specbound.bench.micro"):
        return check_micro(options)
    assert importlib.util.find_spec(module) is not None, f"python -m {module} does not exist"
    if module.startswith("specbound"):
        flags = [word for word in options if word.startswith("--")]
        known = module_help(module)
        assert not [flag for flag in flags if flag not in known], f"python -m {module} takes not all of {flags}"


@functools.cache
def module_help(module: str) -> str:
    command = [sys.executable, "-m", module, "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=source_environment()).stdout


def check_line(line: str) -> None:
    """A line of a code block, where it is a command of ours. Raises AssertionError or InputError."""
    options = words_after(line, "specbound")
    if options is not None:
        assert options[0] in COMMANDS, f"specbound {options[0]} does not exist"
        parse(options[0], options[1:])
    module = words_after(line, "python", "-m")
    if module is not None:
        check_module(module)


def check_inline(code: str, known: dict[str, set[str]]) -> None:
    """A command or an option named within a sentence; words in capitals may stand for values. Raises AssertionError."""
    found = re.match(r"specbound ([a-z][a-z-]*)", code)
    if found:
        assert found[1] in known, f"specbound {found[1]} does not exist"
    name = found[1] if found else code.split()[0] if code.split()[0] in known else ""
    module = re.match(r"python -m (specbound\S*)", code)
    if module:
        return check_module([module[1], *code.split()[3:]])
    options = [word.partition("=")[0].rstrip(",.") for word in code.split() if re.match(r"--[a-z]", word)]
    allowed = known[name] if name else set().union(*known.values(), OTHER_PROGRAMS)
    assert not [option for option in options if option not in allowed], code


@pytest.fixture(scope="module")
def known() -> dict[str, set[str]]:
    return {name: options_of(name) for name in COMMANDS}


@pytest.mark.parametrize("page", CURRENT, ids=page_id)
def test_every_file_of_the_checkout_that_a_sentence_names_is_there(page: Path) -> None:
    folders = r"(specbound|controller|profiling|train|tests|configs|docs)/[\w./-]*"
    named = [code for code in inline_code(page.read_text(encoding="utf-8")) if re.fullmatch(folders, code)]
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize("page", CURRENT, ids=page_id)
def test_every_command_of_a_code_block_is_understood(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    for line in code_lines(page.read_text(encoding="utf-8")):
        check_line(line)


@pytest.mark.parametrize("page", CURRENT, ids=page_id)
def test_every_command_and_option_of_a_sentence_exists(page: Path, known: dict[str, set[str]]) -> None:
    for code in inline_code(page.read_text(encoding="utf-8")):
        check_inline(code, known)


@pytest.mark.parametrize(
    "line",
    [
        "specbound prophile --out x",
        "specbound profile --out x --num-promts 3",
        "specbound profile --out x --num-prompts many",
        "python -m specbound.micro noise",
        "python -m specbound.bench.micro nothing",
        "python -m specbound.bench.micro overhead --num_promts 3",
        "python -m specbound.results.picture a.json --output x.svg",
    ],
)
def test_a_wrong_command_is_seen(line: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        check_line(line)


@pytest.mark.parametrize("code", ["specbound prophile", "specbound replay --sampel", "--no-such-option", "tune --live"])
def test_a_wrong_option_in_a_sentence_is_seen(code: str, known: dict[str, set[str]]) -> None:
    with pytest.raises(AssertionError):
        check_inline(code, known)


def test_every_command_has_a_page() -> None:
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert not [name for name in COMMANDS if f"`{name}`" not in text]


# the public names


def examples(is_slow: bool) -> Iterator[str]:
    """Code blocks of the API page, in order."""
    for kind, code in re.findall(r"(?m)^```python(.*)\n((?:.*\n)*?)```", API.read_text(encoding="utf-8")):
        if kind.strip() == ("slow" if is_slow else ""):
            yield code


def test_every_public_name_exists_and_is_explained() -> None:
    text = API.read_text(encoding="utf-8")
    assert set(specbound.__all__) == {"__version__", *specbound._HOMES}
    for name in specbound.__all__:
        assert getattr(specbound, name) is not None
        assert name == "__version__" or f"`{name}`" in text, name


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import specbound, sys; print([n for n in sys.modules if n in ('torch', 'numpy', 'transformers')])"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, env=source_environment()).stdout == "[]\n"


def run_examples(codes: Iterator[str], names: dict[str, Any]) -> None:
    for code in codes:
        exec(compile(code, str(API), "exec"), names)


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Any]]:
    """An empty folder to work in, without the cost tables of this user."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return dict


def test_the_examples_of_the_api_run(in_folder: Callable[[], dict[str, Any]]) -> None:
    names = in_folder()
    run_examples(examples(is_slow=False), names)
    assert "result" in names


@pytest.mark.slow
def test_the_slow_examples_of_the_api_run(in_folder: Callable[[], dict[str, Any]]) -> None:
    names = in_folder()
    run_examples(examples(is_slow=False), names)
    run_examples(examples(is_slow=True), names)
    assert names["trained"].config.num_layers == 16


def test_the_example_of_the_readme_runs() -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## From Python")[1].split("\n## ")[0]
    code = "\n".join(line[4:] for line in section.splitlines() if line.startswith("    "))
    names: dict[str, Any] = {}
    run_examples(iter([code]), names)
    assert names["ids"].tolist() == names["output"].sequences.tolist()


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150
