"""Ray's workers: the log that they record is the local one, whatever happens to them."""

import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from specbound.cli.main import main
from specbound.models.loading import LoadedModel
from specbound_controller.costs import WORK_NAMES, CostTable
from specbound_controller.errors import MissingExtraError
from specbound_profiling.costs.machine import machine_fingerprint
from specbound_profiling.log.store import open_log
from specbound_profiling.recording import engine
from specbound_profiling.recording import profile as stage

WORDS = "the a cat dog sat ran on under mat tree and then it was that one two".split()  # noqa: SIM905
NUM_PROMPTS = 9


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray on this machine, with room for two workers."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture(scope="module", autouse=True)
def given_costs() -> Iterator[None]:
    """Costs that are not measured."""

    def given(loaded: LoadedModel, *arguments: object, **options: object) -> CostTable:
        machine = machine_fingerprint(loaded.model.device)
        return CostTable(dict.fromkeys(WORK_NAMES, 1e-4), loaded.compression, machine, 0.0, 30)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "measure_costs", given)
        yield


@pytest.fixture(scope="module")
def arguments_of(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    rng = random.Random(0)
    prompts = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    rows = [{"prompt": " ".join(rng.choices(WORDS, k=rng.randint(1, 12))), "task": "ab"[i % 2]} for i in range(9)]
    prompts.write_text("\n".join(map(json.dumps, rows)))

    def arguments(out: Path, *more: str) -> list[str]:
        fixed = ["--model", str(tiny_model_dir), "--prompts", str(prompts), "--out", str(out), "--sample"]
        return ["profile", *fixed, "--shard-prompts", "2", "--max-new-tokens", "16", "--rollout-rate", "0.5", *more]

    return arguments


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, arguments_of: Callable[..., list[str]]) -> Path:
    """A log that this process has recorded."""
    root = tmp_path_factory.mktemp("local") / "log"
    assert main(arguments_of(root)) == 0
    return root


def contents(root: Path) -> dict[str, bytes]:
    files = [*root.rglob("*.parquet"), root / "manifest.json"]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_log_of_two_workers_is_the_local_one_row_for_row(
    tmp_path: Path, arguments_of: Callable[..., list[str]], local: Path
) -> None:
    assert main(arguments_of(tmp_path / "log", "--engine", "ray", "--num-workers", "2")) == 0
    assert contents(tmp_path / "log") == contents(local)
    assert len(open_log(tmp_path / "log").traces("none")) == NUM_PROMPTS


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_workers_go_on_with_a_log_that_was_begun_locally_even_where_one_is_killed(
    tmp_path: Path, arguments_of: Callable[..., list[str]], local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(shutil.copytree(local, tmp_path / "log"))
    before = {path.name: path.stat().st_mtime_ns for path in (root / "positions").iterdir()}
    for shard in (1, 3, 4):
        (root / "positions" / f"none-0000{shard}.parquet").unlink()
    write_shard, killed = stage.LogWriter.write_shard, list[int]()

    def kill_a_worker(self: stage.LogWriter, *arguments: object) -> None:
        write_shard(self, *arguments)  # type: ignore[arg-type]
        if not killed:
            killed.extend(worker_pids())
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(stage.LogWriter, "write_shard", kill_a_worker)
    assert main(arguments_of(root, "--engine", "ray", "--num-workers", "1")) == 0
    assert len(killed) == 1
    assert contents(root) == contents(local)
    after = {path.name: path.stat().st_mtime_ns for path in (root / "positions").iterdir()}
    assert {name for name in after if after[name] != before[name]} == {
        f"none-0000{shard}.parquet" for shard in (1, 3, 4)
    }


def worker_pids() -> list[int]:
    """Processes of this test's workers, which Ray names after their class."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (folder / "cmdline").exists():
            words = (folder / "cmdline").read_bytes().split(b"\0")[0]
            if words.startswith(b"ray::Worker") and is_descendant(int(folder.name)):
                found.append(int(folder.name))
    return found


def is_descendant(pid: int) -> bool:
    """Whether a process was started by this one, at whatever distance."""
    while pid > 1:
        if pid == os.getpid():
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_more_workers_than_the_cluster_has_room_for_are_one_line(
    tmp_path: Path, arguments_of: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments_of(tmp_path / "log", "--engine", "ray", "--num-workers", "3")) == 2
    assert "num_workers must be <= 2 where each takes 1 CPU of the cluster's 2 CPU, got 3" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_worker_that_finds_another_model_stops_the_run_with_one_line(
    tmp_path: Path,
    arguments_of: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stage, "model_fingerprint", lambda model: "0" * 64)
    assert main(arguments_of(tmp_path / "log", "--engine", "ray", "--num-workers", "1")) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "specbound: error" in line]
    assert len(lines) == 1 and lines[0].startswith(
        "specbound: error: model must be the same on every node, got another"
    )


def test_engine_whose_package_is_missing_is_refused_before_a_model_is_loaded(
    tmp_path: Path,
    arguments_of: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find_spec = engine.importlib.util.find_spec
    monkeypatch.setattr(
        engine.importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else find_spec(name, *rest)
    )
    monkeypatch.setattr(stage, "load_model", None)
    with pytest.raises(MissingExtraError, match=r"engine ray needs the extra \[ray\]"):
        engine.require_engine("ray")
    assert main(arguments_of(tmp_path / "log", "--engine", "ray")) == 2
    assert "pip install 'specbound[ray]'" in capsys.readouterr().err
    assert not (tmp_path / "log").exists()


def test_workers_of_another_engine_than_ray_and_unknown_engines_are_refused(
    tmp_path: Path, arguments_of: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    for more, message in (
        (["--num-workers", "2"], "num_workers must be >= 1 and needs engine ray, got 2, local"),
        (["--engine", "ray", "--num-workers", "0"], "num_workers must be >= 1 and needs engine ray, got 0, ray"),
        (["--engine", "spark"], "engine must be one of local, ray, got 'spark'"),
    ):
        assert main(arguments_of(tmp_path / "log", *more)) == 2
        assert message in capsys.readouterr().err
