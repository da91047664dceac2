"""One stage in a process of its own, so that an error of the device takes no other stage with it.

`python -m specbound.bench.gpu.child STAGE OUT SECONDS SINCE [dry]`: runs the parts that no earlier call has finished,
as far as the seconds go. Ends with one of the exit codes below.
"""

import faulthandler
import gc
import sys
import time
import traceback
from pathlib import Path

from specbound.bench.gpu.finding import Finding, Part, Settings
from specbound.bench.gpu.results import FAILED, FINISHED, Results
from specbound.bench.gpu.stages import Stage, stage_of
from specbound_controller.errors import InputError

DONE, NOT_DONE, BAD_INPUT, DEVICE_LOST = 0, 1, 2, 4
"""All parts are finished; some failed or are left; the command can never run here; go on in a new process."""
STOP_AFTER_S = 10.0
"""Seconds over its time after which a stage says where it stands, and ends."""


def run_stage(stage: Stage, settings: Settings, results: Results, ends: float, since: str) -> int:
    """Runs what is left of a stage; an exit code.

    Args:
        ends: `time.monotonic()` at which its time is over.
        since: when the call began: what has failed since then is not tried again.
    """
    code = DONE
    for part in stage.parts(settings):
        if results.status(stage.name, part.name) == FINISHED:
            continue
        if part.name in results.failed_since(stage.name, since):
            code = NOT_DONE
            continue
        left = ends - time.monotonic()
        if left < (0.0 if settings.is_dry else part.seconds):
            print(f"{stage.name} {part.name}: left for the next call, {left:.0f} s are not enough", flush=True)
            code = NOT_DONE
            continue
        run_part(stage.name, part, results)
        if results.status(stage.name, part.name) != FINISHED:
            code = NOT_DONE
            if not device_is_well(settings):
                return DEVICE_LOST
    return code


def run_part(stage: str, part: Part, results: Results) -> None:
    """Runs a part and keeps what it found, its traceback where it fails."""
    print(f"{stage} {part.name}: begins", flush=True)
    results.begin(stage, part.name)
    started = time.monotonic()
    try:
        finding: Finding = part.run()
    except Exception:
        text = traceback.format_exc()
        print(text, flush=True)
        results.fail(stage, part.name, text, time.monotonic() - started)
    else:
        results.finish(stage, part.name, finding, time.monotonic() - started)
    state = "finished" if results.status(stage, part.name) == FINISHED else FAILED
    print(f"{stage} {part.name}: {state} after {time.monotonic() - started:.1f} s", flush=True)


def device_is_well(settings: Settings) -> bool:
    """Whether the device takes orders still; frees what the last part held there."""
    import torch

    gc.collect()
    if settings.is_dry:
        return True
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError as error:
        print(f"the device is lost to this process: {str(error).splitlines()[0]}", flush=True)
        return False
    return True


def require_gpu(settings: Settings) -> None:
    """Raises InputError where there is none."""
    import torch

    if not settings.is_dry and not torch.cuda.is_available():
        raise InputError("gpu needs a GPU, got none that torch sees: --dry-run does the same on the CPU")


def machine(settings: Settings) -> dict[str, object]:
    """The card, what stands on it, and the versions."""
    import torch

    from specbound.results.report import machine_info, versions

    found: dict[str, object] = {**machine_info(), "versions": versions()}
    if settings.is_dry:
        return {**found, "name": f"dry run on the CPU, no figures: {found['name']}"}
    card = torch.cuda.get_device_properties(0)
    return {
        **found,
        "memory_gib": round(card.total_memory / 2**30, 1),
        "capability": f"{card.major}.{card.minor}",
        "num_processors": card.multi_processor_count,
        "cuda": torch.version.cuda,
    }


def main(arguments: list[str]) -> int:
    """The stage that the command line names."""
    name, out, seconds, since, *flags = arguments
    ends = time.monotonic() + float(seconds)
    faulthandler.dump_traceback_later(max(1.0, float(seconds) + STOP_AFTER_S), exit=True)
    settings = Settings(Path(out), is_dry="dry" in flags)
    try:
        require_gpu(settings)
        results = Results(settings.out, settings.is_dry)
        results.machine = machine(settings)
        code = run_stage(stage_of(name), settings, results, ends, since)
    except InputError as error:
        print(f"error: {error}", flush=True)
        code = BAD_INPUT
    faulthandler.cancel_dump_traceback_later()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
