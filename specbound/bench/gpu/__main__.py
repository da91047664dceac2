"""`python -m specbound.bench.gpu`: the command line. argparse, because a bare machine has no other parser."""

import argparse
import os
import sys
from pathlib import Path

from specbound.bench.gpu.carried import install
from specbound.bench.gpu.finding import Settings
from specbound.bench.gpu.results import ROOT
from specbound.bench.gpu.run import prepared, run_stages
from specbound.bench.gpu.stages import STAGES, stage_of
from specbound_controller.errors import InputError

MOST_MINUTES = 9.0
"""Of one call."""
DRY_MINUTES = 60.0
"""Of a dry run, which takes one or two: a busy machine shall not end it."""


def parser() -> argparse.ArgumentParser:
    """All options."""
    found = argparse.ArgumentParser(
        prog="python -m specbound.bench.gpu",
        description="Measures on a GPU, stage by stage, and keeps what it found after every part. Called again, it "
        "goes on where it ended. Exit code: 0 all is finished, 1 something failed, 2 bad input, 3 time was up.",
        epilog="stages: " + "; ".join(f"{stage.name}: {stage.summary}" for stage in STAGES),
    )
    found.add_argument("--stages", default="all", help="some of the stages, with commas between them")
    found.add_argument("--out", default=None, help="folder of the results, at first empty (runs/gpu)")
    found.add_argument("--minutes", type=float, default=MOST_MINUTES, help=f"of this call, at most {MOST_MINUTES:g}")
    found.add_argument("--anew", action="store_true", help="forget what these stages found before")
    found.add_argument("--dry-run", action="store_true", help="the same on the CPU with tiny sizes: no figures")
    return found


def environment(site: list[str], is_dry: bool) -> dict[str, str]:
    """Of the stages' processes: our sources, what was carried, one thread, no network, in a dry run no GPU."""
    roots = [str(ROOT), *(str(ROOT / folder) for folder in ("controller", "profiling", "train"))]
    path = os.pathsep.join([*roots, *site, *filter(None, [os.environ.get("PYTHONPATH")])])
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    blind = {"CUDA_VISIBLE_DEVICES": ""} if is_dry else {}
    return {**os.environ, **quiet, **blind, "PYTHONPATH": path}


def main(arguments: list[str] | None = None) -> int:
    """Runs what the command line asks for; the exit code."""
    options = parser().parse_args(arguments)
    try:
        names = [stage.name for stage in STAGES] if options.stages == "all" else options.stages.split(",")
        asked = {stage_of(name).name for name in names}
        stages = [stage for stage in STAGES if stage.name in asked]
        if not 1.0 <= options.minutes <= MOST_MINUTES:
            raise InputError(f"minutes must be in [1, {MOST_MINUTES:g}], got {options.minutes:g}")
        out = options.out or ("runs/gpu-dry" if options.dry_run else "runs/gpu")
        settings = Settings(Path(out).expanduser().resolve(), options.dry_run)
        prepared(settings, stages, options.anew or options.dry_run)
        seconds = 60.0 * (DRY_MINUTES if settings.is_dry else options.minutes)
        return run_stages(stages, settings, seconds, environment(install(), settings.is_dry))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
