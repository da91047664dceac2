"""Runs the stages one after the other, each in a process of its own, within the time of one call. Imports no torch."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO

from specbound.bench.gpu.child import BAD_INPUT, DEVICE_LOST, DONE, NOT_DONE, STOP_AFTER_S
from specbound.bench.gpu.finding import Settings
from specbound.bench.gpu.results import FAILED, FINISHED, LOG_NAME, ROOT, Results, now, over_limits
from specbound.bench.gpu.stages import Stage
from specbound.results.files import make_folder

KILL_AFTER_S = STOP_AFTER_S + 5.0
"""Seconds over its time after which a stage is killed."""
RESERVE_S = 20.0
"""Of a call: the least that is left when the last stage's time is over."""
SHORTEST_S = 20.0
"""A stage is not begun with less: so long it takes to load."""
LOG_BYTES = 8_000_000
"""Most that is kept of what stages print."""


def run_stages(stages: Sequence[Stage], settings: Settings, seconds: float, environment: Mapping[str, str]) -> int:
    """Runs what is left of the stages. Exit code: 0 all is finished, 1 something failed, 2 bad input, 3 time was up.

    Args:
        seconds: of the whole call.
        environment: of the stages' processes.
    """
    ends, since = time.monotonic() + seconds - RESERVE_S, now()
    unfinished = False
    with (settings.out / LOG_NAME).open("ab") as log:
        for index, stage in enumerate(stages):
            later_s = sum(each.budget_s for each in stages[index + 1 :])
            code = run_one(stage, settings, ends, later_s, since, environment, log)
            if code == BAD_INPUT:
                return BAD_INPUT
            unfinished |= code != DONE
    results = Results(settings.out, settings.is_dry)
    has_failed = report(stages, results)
    too_large = over_limits(settings.out)
    for line in too_large:
        print(f"error: {line}", flush=True)
    if has_failed or too_large:
        return 1
    if unfinished:
        print("time was up: the same command with --continue goes on here", flush=True)
        return 3
    return 0


def run_one(
    stage: Stage,
    settings: Settings,
    ends: float,
    later_s: float,
    since: str,
    environment: Mapping[str, str],
    log: IO[bytes],
) -> int:
    """One stage, again where a part of it lost the device; its last exit code.

    Args:
        ends: `time.monotonic()` at which the time of all stages is over.
        later_s: seconds to leave for later stages, as long as its own budget is not touched.
    """
    budget_ends = time.monotonic() + stage.budget_s
    failed: set[str] | None = None
    while True:
        left = max(min(budget_ends, ends), ends - later_s) - time.monotonic()
        if left < SHORTEST_S and not settings.is_dry:
            say(log, f"{stage.name}: left for the next call, {left:.0f} s are not enough")
            return NOT_DONE
        command = [sys.executable, "-m", "specbound.bench.gpu.child", stage.name, str(settings.out), f"{left:.0f}"]
        code = watched([*command, since, *(["dry"] if settings.is_dry else [])], left + KILL_AFTER_S, environment, log)
        before, failed = failed, Results(settings.out, settings.is_dry).failed_since(stage.name, since)
        is_lost = code == DEVICE_LOST or code < 0
        if not is_lost or failed == before or (before is None and not failed):
            return code
        say(log, f"{stage.name}: goes on in a new process")


def watched(command: Sequence[str], seconds: float, environment: Mapping[str, str], log: IO[bytes]) -> int:
    """Runs a command in a process group of its own, which is killed when its time is over; its exit code.

    What it prints is shown and logged as it comes.
    """
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    timer = threading.Timer(seconds, end_group, (process,))
    timer.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            keep(log, line)
        code = process.wait()
    finally:
        timer.cancel()
        end_group(process)
    if code < 0:
        say(log, f"the process of this stage ended by signal {-code} ({signal.Signals(-code).name})")
    return code


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and all that it began."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def say(log: IO[bytes], line: str) -> None:
    """One line of our own."""
    keep(log, f"{line}\n".encode())


def keep(log: IO[bytes], line: bytes) -> None:
    """Shows a line, and keeps it as long as the log is small."""
    sys.stdout.buffer.write(line)
    sys.stdout.flush()
    if log.tell() < LOG_BYTES:
        log.write(line)
        log.flush()


def report(stages: Sequence[Stage], results: Results) -> bool:
    """Prints how every part ended; whether any failed."""
    has_failed = False
    print(f"\nresults: {results.folder}")
    for stage in stages:
        parts = results.entries.get(stage.name, {})
        if not parts:
            print(f"  {stage.name}: nothing was begun")
        for name, entry in parts.items():
            state = {FINISHED: "finished", FAILED: "FAILED"}.get(entry["status"], "was stopped before its end")
            has_failed |= entry["status"] != FINISHED
            print(f"  {stage.name} {name}: {state}")
    return has_failed


def prepared(settings: Settings, stages: Sequence[Stage], is_anew: bool) -> None:
    """Makes the folder of the results; forgets what these stages found before where they are to begin anew.

    Raises InputError where the folder cannot be made, or holds something else.
    """
    make_folder(settings.out)
    results = Results(settings.out, settings.is_dry)
    if is_anew:
        results.forget(stage.name for stage in stages)
