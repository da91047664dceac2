"""Random trials of the promise, as many as wanted: `python -m tests.random_trials --tokens 1000000 --state FILE`.

Seeds count up from 0; each draws family, number format, level, policy, sampling and kind of call (`random_call`). Every
trial is a line of the state file, written when it ends: a run that was killed goes on with the next seed, and several
may share the work (`--share 0/2`, `--share 1/2`, a file each). `--write FILE ...` puts the table of some state files
into docs/equivalence.md.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from specbound.cli.edge import set_up
from specbound.decoding.model.families import FAMILIES
from specbound.results.report import machine_info, versions
from tests.decoding.trials import CALLS, Outcome, Trial, random_call, run_call

PAGE = Path(__file__).resolve().parents[1] / "docs" / "equivalence.md"
BEGIN, END = "<!-- trials: begin -->", "<!-- trials: end -->"
COUNTS = ("trials", "tokens", "drafted", "accepted", "near-ties", "bugs")
SHOWN_VERSIONS = ("specbound", "transformers")


def line_of(trial: Trial, outcome: Outcome, seconds: float) -> dict[str, Any]:
    """What the state file keeps of a trial."""
    difference = outcome.difference
    return {
        "seed": trial.seed,
        "variant": trial.variant,
        "dtype": trial.dtype,
        "exactness": trial.exactness,
        "policy": trial.policy,
        "call": trial.call,
        "is_sampled": bool(trial.sampling.get("do_sample")),
        "is_exact": trial.is_exact,
        "tokens": outcome.num_tokens,
        "drafted": outcome.num_drafted,
        "accepted": outcome.num_accepted,
        "difference": None if difference is None else difference.describe(),
        "is_near_tie": difference is not None and difference.is_near_tie,
        "seconds": round(seconds, 3),
    }


def is_bug(line: dict[str, Any]) -> bool:
    """A difference that rounding does not explain, or any where none may be."""
    return line["difference"] is not None and (line["is_exact"] or not line["is_near_tie"])


def read_state(path: Path) -> list[dict[str, Any]]:
    """The finished trials of a state file; a line that a kill has torn is cut off."""
    if not path.exists():
        return []
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return [json.loads(line) for line in whole.splitlines()]


def run(num_tokens: int, path: Path, share: tuple[int, int] = (0, 1)) -> list[dict[str, Any]]:
    """Goes on with the trials of a state file until they hold so many tokens. share: (place, number of runs)"""
    lines = read_state(path)
    place, count = share
    seed = max((line["seed"] for line in lines), default=place - count) + count
    held = sum(line["tokens"] for line in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        while held < num_tokens:
            started = time.perf_counter()
            trial = random_call(seed)
            line = line_of(trial, run_call(trial), time.perf_counter() - started)
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
            lines.append(line)
            held, seed = held + line["tokens"], seed + count
            if line["difference"] is not None:
                print(f"{'BUG ' if is_bug(line) else ''}{line['difference']}", file=sys.stderr, flush=True)
            if len(lines) % 100 == 0:
                print(f"{len(lines):,} trials, {held:,} tokens", file=sys.stderr, flush=True)
    return lines


def counted(lines: Iterable[dict[str, Any]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for line in lines:
        found.update(trials=1, tokens=line["tokens"], drafted=line["drafted"], accepted=line["accepted"])
        found["bugs"] += is_bug(line)
        found["near-ties"] += line["is_near_tie"] and not is_bug(line)
    return found


def groups(lines: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The rows of the table: levels with their formats, kinds of call, policies, ways to choose tokens."""
    for exactness, dtype in sorted({(line["exactness"], line["dtype"]) for line in lines}, reverse=True):
        yield f"`{exactness}`, {dtype}", [x for x in lines if (x["exactness"], x["dtype"]) == (exactness, dtype)]
    for call in CALLS:
        yield f"calls: {call}", [line for line in lines if line["call"] == call]
    for policy in sorted({line["policy"] for line in lines}):
        yield f"policy: {policy}", [line for line in lines if line["policy"] == policy]
    for name, is_sampled in (("greedy", False), ("sampled", True)):
        yield f"tokens: {name}", [line for line in lines if line["is_sampled"] == is_sampled]
    yield "all", list(lines)


def to_markdown(lines: Sequence[dict[str, Any]]) -> str:
    """The part of the page between the marks."""
    total = counted(lines)
    used = ", ".join(f"{name} {version}" for name, version in versions().items() if name in SHOWN_VERSIONS)
    variants = len({line["variant"] for line in lines})
    seeds = sorted(line["seed"] for line in lines)
    paragraph = (
        f"{total['trials']:,} trials (seeds {seeds[0]} to {seeds[-1]:,}), {total['tokens']:,} tokens over "
        f"{variants} variants of {len(FAMILIES)} families; {total['near-ties']} outputs first differ at a near-tie, "
        f"{total['bugs']} at a bug. Measured with {used} on {machine_info()['name']}."
    )
    table = ["| " + " | ".join(("of the trials", *COUNTS)) + " |", "| --- |" + " ---: |" * len(COUNTS)]
    for name, of_group in groups(lines):
        found = counted(of_group)
        table.append("| " + " | ".join((name, *(f"{found[count]:,}" for count in COUNTS))) + " |")
    return f"{paragraph}\n\n" + "\n".join(table)


def write(page: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Puts the table into the page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, found, after = rest.partition(END)
    assert found, f"{page} must hold {BEGIN} and {END}"
    page.write_text(f"{before}{BEGIN}\n\n{to_markdown(lines)}\n\n{END}{after}", encoding="utf-8")


def share_of(text: str) -> tuple[int, int]:
    place, _, count = text.partition("/")
    return int(place), int(count)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs trials, or writes what was run; 1 where one is a bug."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1_000_000, help="stop when the state file holds so many")
    parser.add_argument("--state", type=Path, default=Path("runs/random_trials.jsonl"))
    parser.add_argument("--share", type=share_of, default=(0, 1), help="PLACE/RUNS: every RUNS-th seed from PLACE on")
    parser.add_argument("--write", type=Path, nargs="+", help="state files whose table goes into docs/equivalence.md")
    options = parser.parse_args(argv)
    set_up()
    torch.set_num_threads(1)
    if options.write:
        lines = [line for path in options.write for line in read_state(path)]
        write(PAGE, lines)
    else:
        lines = run(options.tokens, options.state, options.share)
    return 1 if any(map(is_bug, lines)) else 0


if __name__ == "__main__":
    raise SystemExit(main())
