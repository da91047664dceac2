"""Stage `tests`: the tests that only a GPU can run, a part for each file; every failure is kept in full."""

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from specbound.bench.gpu.finding import Finding, Part, Settings, Table
from specbound.bench.gpu.results import ROOT
from specbound_controller.errors import InputError

MARK = "mark.gpu"
"""What a file holds that has such tests."""
NUM_PROCESSES = 4
"""Where pytest-xdist is there: each has a context of its own on the device."""
SECONDS = 40.0
"""A file may take."""
MOST_TEXT = 20_000
"""Characters that are kept of one failure."""


def parts(settings: Settings) -> Iterator[Part]:
    """One for each file; in a dry run, where all tests are skipped, only the first."""
    files = files_with_gpu_tests()
    for path in files[:1] if settings.is_dry else files:
        yield Part(path, partial(run_tests, path, settings), SECONDS)


def files_with_gpu_tests() -> list[str]:
    """Files with tests for a GPU, relative to the checkout. Raises InputError where there is no checkout."""
    folder = ROOT / "tests"
    if not folder.is_dir():
        raise InputError(f"stage tests must run from a checkout, got no folder {folder}")
    found = [path for path in sorted(folder.rglob("test_*.py")) if MARK in path.read_text(encoding="utf-8")]
    return [str(path.relative_to(ROOT)) for path in found]


def run_tests(file: str, settings: Settings) -> Finding:
    """Runs a file's tests in a process of their own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "junit.xml"
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "--tb=long", "-p", "no:cacheprovider"]
        if not settings.is_dry and importlib.util.find_spec("xdist") is not None:
            command += ["-n", str(NUM_PROCESSES)]
        code = subprocess.run([*command, f"--junitxml={path}", file], cwd=ROOT, stderr=subprocess.STDOUT).returncode
        if not path.exists():
            raise RuntimeError(f"pytest ended with code {code} and without results")
        return read_junit(path, settings)


def read_junit(path: Path, settings: Settings) -> Finding:
    """What pytest reports; failed where a test failed, and on a GPU where none ran."""
    cases = ElementTree.parse(path).getroot().findall(".//testcase")
    failures = [(name_of(case), text_of(case)) for case in cases if text_of(case)]
    skipped = [f"{name_of(case)}: {reason}" for case in cases if (reason := skip_of(case)) is not None]
    seconds = sum(float(case.get("time", 0.0)) for case in cases)
    num_passed = len(cases) - len(failures) - len(skipped)
    table = Table("tests", ("passed", "failed", "skipped", "s"), [(num_passed, len(failures), len(skipped), seconds)])
    failure = "\n\n".join(f"{name}\n{text}" for name, text in failures) or None
    if failure is None and num_passed == 0 and not settings.is_dry:
        failure = "no test ran: " + "; ".join(skipped or ["none was found"])
    notes = [] if settings.is_dry else [f"skipped: {line}" for line in skipped]
    return Finding([table], notes, {"failures": dict(failures)}, failure)


def name_of(case: ElementTree.Element) -> str:
    """Of a test, as pytest shows it."""
    return f"{case.get('classname', '')}::{case.get('name', '')}"


def text_of(case: ElementTree.Element) -> str:
    """Its failure or error; empty where it has none."""
    found = [*case.findall("failure"), *case.findall("error")]
    return "\n".join(each.text or str(each.get("message")) for each in found)[:MOST_TEXT]


def skip_of(case: ElementTree.Element) -> str | None:
    """Why it was skipped; None where it was not."""
    skipped = case.find("skipped")
    return None if skipped is None else skipped.get("message", "")
