"""Prices of what is too small beside a step to be fitted: an exit test, a learned score, a decision, the books of a
step. Timed alone.

Alone, but not in a loop of their own: between any two of them the model runs once, because that is how they come in
decoding. With their code and data still in the processor's cache they would seem several times cheaper.
"""

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from specbound.decoding.step import read_signals
from specbound_controller.actions import LOOKUP_FIRST, MAX_PROFILES, action_grid
from specbound_controller.config import ControllerConfig
from specbound_controller.controller import Controller, Sample
from specbound_controller.costs import WORK_NAMES, CostTable
from specbound_controller.features import FEATURE_NAMES, FeatureState
from specbound_controller.lookup import ContextLookup
from specbound_controller.mlp import Mlp
from specbound_controller.policy import StaticPolicy
from specbound_controller.records import StepRecord
from specbound_controller.score import SIGNAL_NAMES
from specbound_controller.step_policy import CurveLayout
from specbound_profiling.costs.stopwatch import Stopwatch, inside_seconds

NUM_TIMINGS, MIN_TIMINGS = 40, 10
"""Repetitions, and the fewest of them where the model is slow; the median counts."""
NUM_HIDDEN = 32
"""Hidden units of the stand-in for a controller."""
NUM_CONTEXT = 200
"""Tokens of its context."""
BURSTS = {"learned_scores": 4}
"""What a step computes several times in a row: looked-up drafts have no layer between them."""
TEMPERATURE = 1.0
"""Of the exit test, as learned scores and plain confidence ask for it: annealing takes one more pass."""


def bookkeeping_seconds(watch: Stopwatch, ids: Tensor) -> float | None:
    """Seconds of a plain step that are neither layers nor head; None on a GPU, which works on while the host goes on.

    A fit can hardly tell them from the price of layers: every step runs all layers at least once. ids: (1, T)
    """
    decoder, clock = watch.decoder, watch.clock
    if decoder.adapter.device.type != "cpu":
        return None
    seconds, ended = list[float](), float("nan")
    policy, decoder.policy = decoder.policy, StaticPolicy(())
    try:
        with inside_seconds(decoder.step_adapter, clock) as inside:

            def mark(record: StepRecord, row: int) -> None:
                nonlocal ended
                seconds.append(clock() - ended - sum(inside))
                inside.clear()
                ended = clock()

            decoder.decode([ids], max_new_tokens=NUM_TIMINGS, on_step=mark)
    finally:
        decoder.policy = policy
    return float(np.median(seconds[1:]))  # the first step began in prefill


@torch.inference_mode()
def overhead_seconds(
    watch: Stopwatch, exit_layers: Sequence[int], max_seconds: float = math.inf, num_logits: int | None = None
) -> tuple[dict[str, float], float]:
    """Seconds of one exit test beyond the bare arg max, one learned score and one decision, by work name.

    Also seconds of the stopwatch's probe meanwhile: the speed of the machine that they hold for. After `max_seconds`
    no repetition begins but the fewest there must be. num_logits: of an exit; None is the model's vocabulary.
    """
    adapter, clock = watch.decoder.adapter, watch.clock
    controller = random_controller(exit_layers, adapter.num_layers)
    num_logits = adapter.vocab_size if num_logits is None else num_logits
    logits = torch.randn(1, num_logits, device=adapter.device, dtype=adapter.dtype)
    exit_layer, lookup = exit_layers[-1], ContextLookup()
    signals, state = read_signals(logits, exit_layer, 0, TEMPERATURE), FeatureState("none")
    tokens = [number % 7 for number in range(NUM_CONTEXT)]
    features = state.vector(lookup.find(tokens))
    policy = controller.policy(CostTable(dict.fromkeys(WORK_NAMES, 1.0), "none", "", 0.0, 0), "none")
    record = StepRecord(
        9, 3, 2, 3, (1,) * 3, (0.5,) * 3, (0.5,) * 3, (0.5,) * 3, "width", {1: 9}, {1: 4}, 3, 0.5, 1.0, 1.0
    )

    def decide() -> None:
        policy.observe(record)
        state.update(record)
        policy.best_action(state.vector(lookup.find(tokens)))

    calls: dict[str, Callable[[], object]] = {
        "arg max": lambda: int(logits.argmax(-1)),
        "exit_tests": lambda: read_signals(logits, exit_layer, 0, TEMPERATURE),
        "learned_scores": lambda: (lookup.find(tokens, tokens[:2]), controller.score(signals, features)),
        "decisions": decide,
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    probes = []
    cache, token = adapter.new_cache(4), torch.zeros(1, 1, dtype=torch.int64, device=adapter.device)
    begun = time.perf_counter()
    for number in range(NUM_TIMINGS + 1):
        if number > MIN_TIMINGS and time.perf_counter() - begun > max_seconds:
            break
        for name, call in calls.items():
            hidden = adapter.run_layers(adapter.embed(token, 0), 0, adapter.num_layers, cache, 0)
            int(adapter.read_head(hidden).argmax())  # waits for the device
            cache.truncate(0)
            probes.append(watch.probe())
            state.vector(lookup.find(tokens))  # in a step its own books have just been kept
            started = clock()
            for _ in range(BURSTS.get(name, 1)):
                call()
            seconds[name].append((clock() - started) / BURSTS.get(name, 1))
    median = {name: float(np.median(values[1:])) for name, values in seconds.items()}
    bare = median.pop("arg max")
    return {**median, "exit_tests": max(0.0, median["exit_tests"] - bare)}, float(np.median(probes))


def random_controller(exit_layers: Sequence[int], num_layers: int) -> Controller:
    """A controller of the usual size with random weights: what it computes costs what any controller's choice does."""
    random, exits = np.random.default_rng(0), tuple(sorted(exit_layers))
    layout = CurveLayout(action_grid(exits, lookup_first=LOOKUP_FIRST))
    actions = layout.actions_of(range(0, len(layout.profiles), math.ceil(len(layout.profiles) / MAX_PROFILES)))

    def mlp(inputs: int, outputs: int) -> Mlp:
        shapes = ((NUM_HIDDEN, inputs), (NUM_HIDDEN,), (outputs, NUM_HIDDEN), (outputs,))
        return Mlp(*(random.normal(scale=0.1, size=shape).astype(np.float32) for shape in shapes))

    config = ControllerConfig(
        exit_layers=exits,
        num_layers=num_layers,
        model_fingerprint="",
        compressions=("none",),
        actions=actions,
        alpha=0.0,
        slopes=(1.0,) * len(exits),
        offsets=(0.0,) * len(exits),
    )
    features = np.ones((1, len(FEATURE_NAMES)), dtype=np.float32)
    return Controller(
        config,
        mlp(len(SIGNAL_NAMES) + len(exits) + len(FEATURE_NAMES), 1),
        mlp(len(FEATURE_NAMES), CurveLayout(actions).num_outputs),
        Sample(features, np.ones(1, dtype=np.float32)),
    )
