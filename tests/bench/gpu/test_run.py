"""The way of a call: parts within their time, failures that stop nothing, processes that end, and a whole dry run."""

import io
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from specbound.bench.gpu import run as module
from specbound.bench.gpu.__main__ import environment, main
from specbound.bench.gpu.child import BAD_INPUT, DEVICE_LOST, DONE, NOT_DONE, run_stage
from specbound.bench.gpu.finding import Finding, Part, Settings
from specbound.bench.gpu.results import Results, now
from specbound.bench.gpu.run import report, run_one, run_stages, watched
from specbound.bench.gpu.stages import STAGES, Stage, stage_of
from specbound_controller.errors import InputError


@dataclass(frozen=True)
class FakeStage:
    """A stage whose parts are functions."""

    own: tuple[Part, ...]
    name: str = "fake"

    def parts(self, settings: Settings) -> Iterable[Part]:
        return self.own


def boom() -> Finding:
    raise ValueError("a broken part")


def run_fake(tmp_path: Path, *parts: Part, seconds: float = 60.0, since: str = "9") -> tuple[int, Results]:
    settings, results = Settings(tmp_path, is_dry=True), Results(tmp_path, is_dry=True)
    return run_stage(FakeStage(parts), settings, results, time.monotonic() + seconds, since), results  # type: ignore[arg-type]


def test_a_part_that_fails_shows_its_traceback_and_the_next_one_runs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, results = run_fake(tmp_path, Part("bad", boom, 1.0), Part("good", Finding, 1.0))
    assert code == NOT_DONE and results.status("fake", "bad") == "failed"
    assert results.status("fake", "good") == "finished"
    assert "ValueError: a broken part" in capfd.readouterr().out


def test_a_second_call_runs_what_was_not_finished_and_nothing_else(tmp_path: Path) -> None:
    calls: list[str] = []

    def part(name: str) -> Part:
        return Part(name, lambda: calls.append(name) or Finding(), 1.0)

    assert run_fake(tmp_path, part("a"), Part("b", boom, 1.0))[0] == NOT_DONE
    assert run_fake(tmp_path, part("a"), part("b"), part("c"))[0] == DONE
    assert calls == ["a", "b", "c"]


def test_what_failed_in_this_call_is_not_tried_again_by_a_new_process(tmp_path: Path) -> None:
    since = now()
    run_fake(tmp_path, Part("a", boom, 1.0), since=since)
    code, results = run_fake(tmp_path, Part("a", Finding, 1.0), since=since)
    assert code == NOT_DONE and results.status("fake", "a") == "failed"


def test_a_part_is_left_where_its_time_is_not_there_and_a_shorter_one_runs(tmp_path: Path) -> None:
    settings, results = Settings(tmp_path), Results(tmp_path)
    stage = FakeStage((Part("long", boom, 100.0), Part("short", Finding, 0.0)))
    code = run_stage(stage, settings, results, time.monotonic() + 50.0, now())  # type: ignore[arg-type]
    assert code == NOT_DONE and results.status("fake", "long") is None and results.status("fake", "short") == "finished"


def test_what_a_process_prints_is_shown_and_kept_and_its_code_comes_back(capfd: pytest.CaptureFixture[str]) -> None:
    log = io.BytesIO()
    command = [sys.executable, "-c", "print('seen'); raise SystemExit(3)"]
    assert watched(command, 60.0, os.environ, log) == 3
    assert log.getvalue() == b"seen\n" and "seen" in capfd.readouterr().out


def test_a_process_that_hangs_is_ended_with_its_children_and_that_is_said() -> None:
    log, started = io.BytesIO(), time.monotonic()
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    assert watched([sys.executable, "-c", child], 3.0, os.environ, log) == -9
    assert time.monotonic() - started < 60 and b"SIGKILL" in log.getvalue()


@pytest.mark.parametrize("code", [DEVICE_LOST, -11])
def test_a_stage_goes_on_in_a_new_process_as_long_as_it_comes_further(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[str] = []

    def fake(command: list[str], *rest: object) -> int:
        runs.append(command[3])
        if len(runs) < 3:
            Results(tmp_path).fail("micro", f"part {len(runs)}", "lost", 1.0)
        return code

    monkeypatch.setattr(module, "watched", fake)
    since, ends = now(), time.monotonic() + 500.0
    assert run_one(stage_of("micro"), Settings(tmp_path), ends, 0.0, since, {}, io.BytesIO()) == code
    assert runs == ["micro"] * 3  # the third process came no further


def test_later_stages_keep_their_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, float] = {}

    def fake(command: list[str], *rest: object) -> int:
        given[command[3]] = float(command[5])
        return DONE

    monkeypatch.setattr(module, "watched", fake)
    stages = [Stage("a", "", 100.0, ""), Stage("b", "", 300.0, "")]
    assert run_stages(stages, Settings(tmp_path), 540.0, {}) == 0
    assert given["a"] == pytest.approx(220, abs=3) and given["b"] == pytest.approx(520, abs=3)


def test_the_exit_code_says_what_failed_what_is_left_and_what_cannot_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages, codes = [stage_of("micro")], iter((NOT_DONE, BAD_INPUT, NOT_DONE))
    monkeypatch.setattr(module, "watched", lambda *_: next(codes))
    assert run_stages(stages, Settings(tmp_path), 540.0, {}) == 3
    assert run_stages(stages, Settings(tmp_path), 540.0, {}) == 2
    Results(tmp_path).begin("micro", "bits")
    assert run_stages(stages, Settings(tmp_path), 540.0, {}) == 1 and report(stages, Results(tmp_path))


@pytest.mark.parametrize("arguments", [["--stages", "tests,shape"], ["--minutes", "20"], ["--minutes", "nan"]])
def test_bad_input_is_one_line_and_two(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: ") and not (tmp_path / "out").exists()


def test_an_unknown_stage_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(InputError, match="tests, shapes, micro, demo, smollm2, write"):
        stage_of("smoll")


def test_a_dry_run_sees_no_gpu_and_stages_find_our_sources() -> None:
    found = environment(["/carried"], is_dry=True)
    assert found["CUDA_VISIBLE_DEVICES"] == "" and "/carried" in found["PYTHONPATH"].split(os.pathsep)
    assert all(any(path.endswith(root) for path in found["PYTHONPATH"].split(os.pathsep)) for root in ("train",))


def test_every_part_of_every_stage_runs_to_its_end_on_the_cpu(tmp_path: Path) -> None:
    assert main(["--dry-run", "--out", str(tmp_path)]) == 0
    results = Results(tmp_path, is_dry=True)
    assert list(results.entries) == [stage.name for stage in STAGES]
    parts = {(stage, part): entry for stage, own in results.entries.items() for part, entry in own.items()}
    assert all(entry["status"] == "finished" and entry["tables"] for entry in parts.values())
    assert {part for stage, part in parts if stage == "demo"} == {"bf16", "nf4"} and len(parts) >= 19
    assert {part for stage, part in parts if stage == "smollm2"} == {"bf16 0", "bf16 0.7"}
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "results.md", "log.txt", "own-text-1.zip"}
    assert "dry run on the CPU" in (tmp_path / "results.md").read_text()
