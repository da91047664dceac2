"""Stage `demo`: the demonstration model's `evaluate` on the device, at bf16 and nf4."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from specbound.bench.gpu.finding import Cell, Finding, Part, Settings, Table
from specbound.bench.gpu.models import random_ids
from specbound.decoding.greedy_twin import greedy_twin
from specbound.evaluation.config import EvaluateConfig
from specbound.evaluation.rows import EvaluatedRow
from specbound.evaluation.run import evaluate, level_notes
from specbound.models.controllers import load_controller
from specbound.models.loading import load_model
from specbound.pricing.local import PROMPT_LENGTHS
from specbound_controller.errors import UnsupportedModelError

NUM_PROMPTS, NEW_TOKENS, ROUNDS, COST_SECONDS = 8, 64, 1, 10.0
DRY_PROMPTS, DRY_TOKENS, DRY_COST_SECONDS = 1, 6, 0.5
DRY_LENGTHS = (4, 8, 12)


def parts(settings: Settings) -> Iterator[Part]:
    """A part for each way to hold the weights."""
    for compression in ("bf16", "nf4"):
        yield Part(compression, partial(evaluated, compression, settings), 70.0)


def evaluated(compression: str, settings: Settings) -> Finding:
    """The tables of `evaluate`; at `token` without a claim where `bitwise` is refused here."""
    notes: list[str] = []
    is_short = settings.is_dry and compression == "nf4"  # which takes a CPU long; bf16 rehearses the rest
    for exactness in ("token",) if is_short else ("bitwise", "token"):
        try:
            with tempfile.TemporaryDirectory() as folder:
                costs = Path(folder) / "costs.json"
                measure_costs_into(costs, compression, exactness, settings)
                return evaluation(compression, exactness, str(costs), settings, notes)
        except UnsupportedModelError as error:
            notes.append(f"exactness {exactness} is refused: {error}")
    raise UnsupportedModelError("; ".join(notes))


def measure_costs_into(path: Path, compression: str, exactness: str, settings: Settings) -> None:
    """What work costs on this device, in less time than `evaluate` takes for it."""
    from specbound_profiling.costs.measure import measure_costs
    from specbound_profiling.log.manifest import write_cost_file

    loaded, controller = load_model("demo", compression, settings.device), load_controller("demo")
    assert controller is not None  # the demonstration's ships with the package
    seconds = DRY_COST_SECONDS if settings.is_dry else COST_SECONDS
    lengths = DRY_LENGTHS if settings.is_dry else PROMPT_LENGTHS
    table = measure_costs(
        replace(loaded, model=greedy_twin(loaded.model)),
        [random_ids(loaded.model.config.vocab_size, length, length) for length in lengths],
        max_seconds=seconds,
        exit_layers=controller.config.exit_layers,
        exactness=exactness,
    )
    write_cost_file(path, {compression: table})


def evaluation(compression: str, exactness: str, costs: str, settings: Settings, notes: list[str]) -> Finding:
    """One level."""
    config = EvaluateConfig(
        num_prompts=DRY_PROMPTS if settings.is_dry else NUM_PROMPTS,
        max_new_tokens=DRY_TOKENS if settings.is_dry else NEW_TOKENS,
        rounds=ROUNDS,
        compression=(compression,),
        exactness=exactness,
        policy=("controller",) if settings.is_dry else ("best_static", "controller"),  # no race of minutes on a CPU
        costs=costs,
        decision_prompts=0,
        allow_noise=True,
    )
    result = evaluate(config, partial(print, flush=True), lambda _: None)
    (level,) = result.levels
    columns = (
        *("method", "exactness", "tokens/s", "speedup", "low", "high"),
        *("tokens per step", "acceptance", "layer calls per token", "outputs equal"),
    )
    rows = [cells(row) for row in level.rows if row.task == "all"]
    title = f"The demonstration model at {compression}, {config.num_prompts} prompts of {config.max_new_tokens} tokens"
    return Finding([Table(title, columns, rows)], [*notes, *result.notes, *level_notes(level)])


def cells(row: EvaluatedRow) -> list[Cell]:
    """One row in the order of the columns."""
    name = f"{row.method} (replayed)" if row.simulated else row.method
    equal = "–" if row.outputs_equal is None else "yes" if row.outputs_equal else "no"
    return [
        name,
        row.exactness,
        row.tokens_per_second,
        row.speedup,
        row.speedup_low,
        row.speedup_high,
        row.tokens_per_step,
        row.acceptance_rate,
        row.layer_calls_per_token,
        equal,
    ]
