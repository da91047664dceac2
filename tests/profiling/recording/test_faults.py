"""Faults of a recording: killed at any moment, a full disk, a folder that cannot be written, damaged and foreign files.

One clear line and an exit code each; nothing half-written is read as whole; the run after it ends with the same log.
"""

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from specbound.cli.main import main
from specbound_controller.costs import WORK_NAMES, CostTable
from specbound_controller.errors import InputError
from specbound_profiling.costs.machine import machine_fingerprint
from specbound_profiling.log.store import LogWriter, open_log
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.recording import profile as stage
from tests.profiling.manifests import MANIFEST

NUM_PROMPTS = 12
WORDS = "the a cat dog sat ran on under mat tree and then it was that one two".split()  # noqa: SIM905
TraceOf = Callable[..., PromptTrace]

STORES = ("stores/bigrams/config.json", "stores/bigrams/best.npy")
"""What stands before the first shard."""


def contents(root: Path) -> dict[str, bytes]:
    """The log: all files but the costs, which are times."""
    files = [p for p in sorted(root.rglob("*")) if p.is_file() and p.name != "costs.json"]
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def prompts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = random.Random(0)
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    rows = [{"prompt": " ".join(rng.choices(WORDS, k=rng.randint(1, 12)))} for _ in range(NUM_PROMPTS)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def arguments_of(tiny_model_dir: Path, prompts_file: Path) -> Callable[..., list[str]]:
    def arguments(out: Path, *more: str) -> list[str]:
        fixed = {"model": tiny_model_dir, "prompts": prompts_file, "out": out, "max-new-tokens": 32}
        fixed |= {"shard-prompts": 1, "num-cost-steps": 30, "exit-layers": "[1,2,3]", "rollout-rate": 0.5}
        return ["profile", *itertools.chain(*((f"--{name}", str(value)) for name, value in fixed.items())), *more]

    return arguments


@pytest.fixture(scope="module")
def given_costs() -> Iterator[None]:
    """Costs that are not measured."""

    def given(loaded: object, *arguments: object, **options: object) -> CostTable:
        machine = machine_fingerprint(loaded.model.device)  # type: ignore[attr-defined]
        level = loaded.compression  # type: ignore[attr-defined]
        return CostTable(dict.fromkeys(WORK_NAMES, 1e-4), level, machine, 0.0, 30)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "measure_costs", given)
        yield


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, arguments_of: Callable[..., list[str]], given_costs: None
) -> Path:
    root = tmp_path_factory.mktemp("undisturbed") / "log"
    assert main(arguments_of(root)) == 0
    return root


def num_shards(root: Path) -> int:
    return len(list((root / "branches").glob("*.parquet")))


def test_run_killed_again_and_again_ends_with_the_log_of_an_undisturbed_one(
    tmp_path: Path, arguments_of: Callable[..., list[str]], undisturbed: Path
) -> None:
    root, whole = tmp_path / "log", contents(undisturbed)
    for most in (NUM_PROMPTS // 3, 2 * NUM_PROMPTS // 3):
        before = num_shards(root)
        wanted, delay = random.randint(before + 1, most), random.random() * 0.05
        command = [sys.executable, "-m", "specbound.cli.main", *arguments_of(root)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and num_shards(root) < wanted:
            time.sleep(0.001)
        time.sleep(delay)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert wanted <= num_shards(root) < NUM_PROMPTS
        there = {name: data for name, data in contents(root).items() if name.endswith(".parquet")}
        assert there == {name: whole[name] for name in there}
        with pytest.raises(InputError, match=rf"not finished: \d+ of {NUM_PROMPTS} shards are missing"):
            open_log(root)
    assert main(arguments_of(root)) == 0
    assert contents(root) == whole
    assert open_log(root).manifest.counts["none"]["num_prompts"] == NUM_PROMPTS


SMALL = replace(MANIFEST, num_prompts=3)


@pytest.fixture
def write(random_trace_of: TraceOf, with_branches_of: TraceOf, costs: CostTable) -> Callable[[Path], None]:
    """Writes the missing part of a small log."""
    rng = np.random.default_rng(0)
    plain = [replace(random_trace_of(rng, (1, 3), f"p{i}"), token_limit=64, eos_token_ids=()) for i in range(3)]
    traces = [replace(with_branches_of(rng, trace, 4, share=0.5), eos_token_ids=(9,)) for trace in plain]

    def run(root: Path) -> None:
        writer = LogWriter(root, SMALL)
        for shard in range(SMALL.num_shards):
            if not writer.is_written("none", shard):
                writer.write_shard("none", shard, traces[2 * shard : 2 * shard + 2])
        writer.write_costs("none", costs)
        writer.write_counts("none", {"num_prompts": 3})

    return run


def is_killed_at(point: int, run: Callable[[], None]) -> bool:
    """Runs in a copy of this process that dies at its n-th touch of a file; False where it comes to its end before."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    touches = itertools.count()

    def dying(function: Callable[..., object], spoil: bool = False) -> Callable[..., object]:
        def touch(*arguments: object, **options: object) -> object:
            if next(touches) == point:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*arguments, **options)
            if spoil and next(touches) == point:  # in the middle of writing
                path = Path(str(arguments[1] if function is write_table else arguments[0]))
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return touch

    write_table = pq.write_table
    try:
        pq.write_table = dying(pq.write_table, spoil=True)
        Path.write_text = dying(Path.write_text, spoil=True)  # type: ignore[method-assign]
        os.replace, Path.unlink, Path.mkdir = dying(os.replace), dying(Path.unlink), dying(Path.mkdir)  # type: ignore
        run()
    finally:
        os._exit(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a copy of the process")
def test_writer_killed_at_any_touch_of_a_file_leaves_nothing_that_is_read_as_whole(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    write(tmp_path / "whole")
    whole, early = contents(tmp_path / "whole"), contents(tmp_path / "whole")
    early["manifest.json"] = early["manifest.json"].replace(
        json.dumps({"none": {"num_prompts": 3}}, indent=1).replace("\n", "\n ").encode(), b"{}"
    )
    assert early != whole
    for point in itertools.count():
        root = tmp_path / str(point)
        is_killed = is_killed_at(point, lambda root=root: write(root))  # type: ignore[misc]
        there = {name: data for name, data in contents(root).items() if not name.endswith(".partial")}
        assert all(data in (whole[name], early[name]) for name, data in there.items()), point
        if not is_killed:
            break
        write(root)
        assert contents(root) == whole, point
    assert point > 30 and there == whole


@contextmanager
def full_disk(num_bytes: int) -> Iterator[None]:
    """No file grows beyond some bytes."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def only_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The line of the error, which must be all that was said beside progress."""
    lines = [line for line in capsys.readouterr().err.splitlines() if "specbound" in line]
    assert len(lines) == 1 and lines[0].startswith("specbound: error: ")
    return lines[0].removeprefix("specbound: error: ")


@pytest.mark.parametrize(("num_bytes", "name"), [(100, "manifest.json"), (4000, "none-00000.parquet")])
def test_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    tmp_path: Path,
    arguments_of: Callable[..., list[str]],
    undisturbed: Path,
    capsys: pytest.CaptureFixture[str],
    num_bytes: int,
    name: str,
) -> None:
    with full_disk(num_bytes):
        assert main(arguments_of(tmp_path / "log")) == 1
    line = only_line(capsys)
    assert name in line and "could not be written: File too large" in line and "same command" in line
    assert set(contents(tmp_path / "log")) <= {"manifest.json", *STORES}
    assert main(arguments_of(tmp_path / "log")) == 0
    assert contents(tmp_path / "log") == contents(undisturbed)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("has_begun", [False, True])
def test_read_only_folder_is_one_line(
    tmp_path: Path,
    arguments_of: Callable[..., list[str]],
    undisturbed: Path,
    capsys: pytest.CaptureFixture[str],
    has_begun: bool,
) -> None:
    root = Path(shutil.copytree(undisturbed, tmp_path / "log")) if has_begun else tmp_path / "log"
    if has_begun:
        (root / "exits" / "none-00003.parquet").unlink()
    folders = [root / "exits", root] if has_begun else [tmp_path]
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert main(arguments_of(root)) in (1, 2)
        assert "written" in only_line(capsys)
    finally:
        for folder in reversed(folders):
            folder.chmod(0o755)


@pytest.mark.usefixtures("given_costs")
def test_folder_that_cannot_be_made_is_one_line(
    arguments_of: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    if not Path("/proc/version").exists():
        pytest.skip("needs a file system that nobody can write to")
    assert main(arguments_of(Path("/proc/specbound/log"))) == 2
    assert "out must be a folder that can be written, got /proc/specbound/log (" in only_line(capsys)


@pytest.mark.parametrize("is_truncated", [True, False])
def test_damaged_shard_is_named_and_written_again_once_it_is_deleted(
    tmp_path: Path,
    arguments_of: Callable[..., list[str]],
    undisturbed: Path,
    capsys: pytest.CaptureFixture[str],
    is_truncated: bool,
) -> None:
    root = Path(shutil.copytree(undisturbed, tmp_path / "log"))
    path = root / "exits" / "none-00007.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data[: len(data) // 2] if is_truncated else data)
    assert main(arguments_of(root)) == 2
    line = only_line(capsys)
    assert "none-00007.parquet is damaged: " in line and line.endswith("delete it and profile again")
    path.unlink()
    assert main(arguments_of(root)) == 0
    assert contents(root) == contents(undisturbed)


def test_log_of_another_model_is_left_alone(
    tmp_path: Path,
    arguments_of: Callable[..., list[str]],
    undisturbed: Path,
    save_tiny_model: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    other, before = save_tiny_model(tmp_path / "other", "llama", 5), contents(undisturbed)
    assert main([*arguments_of(undisturbed), "--model", str(other)]) == 2
    assert "out holds another run: num_layers is 4 there, 5 here" in only_line(capsys)
    assert contents(undisturbed) == before


def test_log_of_another_schema_version_is_left_alone(
    tmp_path: Path, arguments_of: Callable[..., list[str]], undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(undisturbed, tmp_path / "log"))
    values = json.loads((root / "manifest.json").read_text())
    (root / "manifest.json").write_text(json.dumps(values | {"schema_version": 99}))
    before = contents(root)
    assert main(arguments_of(root)) == 2
    assert "schema_version must be" in (line := only_line(capsys)) and "got 99" in line
    assert contents(root) == before


@pytest.mark.usefixtures("given_costs")
def test_continuations_that_end_at_once_are_recorded_and_counted(
    tmp_path: Path, arguments_of: Callable[..., list[str]], tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    for name in ("config.json", "generation_config.json"):
        values = json.loads((model / name).read_text())
        (model / name).write_text(json.dumps(values | {"eos_token_id": list(range(64))}))
    arguments = [*arguments_of(tmp_path / "log", "--json", str(tmp_path / "verdict.json")), "--model", str(model)]
    assert main(arguments) == 0
    assert f"{NUM_PROMPTS} prompts, {NUM_PROMPTS} tokens, 0 cut where they loop, {NUM_PROMPTS} ended by themselves" in (
        capsys.readouterr().out
    )
    traces = open_log(tmp_path / "log").traces("none")
    assert [trace.num_positions for trace in traces] == [1] * NUM_PROMPTS
    assert all(trace.is_final_eos and trace.branches is None for trace in traces)
    json.loads((tmp_path / "verdict.json").read_text(), parse_constant=pytest.fail)  # NaN is no JSON
