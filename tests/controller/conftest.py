"""Random tiny controllers and hand-made cost tables."""

from collections.abc import Callable

import numpy as np
import pytest

from specbound_controller.actions import action_grid
from specbound_controller.config import ControllerConfig
from specbound_controller.controller import Controller, Sample
from specbound_controller.costs import ROW_KNOTS, WORK_NAMES, CostTable
from specbound_controller.features import FEATURE_NAMES
from specbound_controller.mlp import Mlp
from specbound_controller.records import StepRecord
from specbound_controller.score import SIGNAL_NAMES
from specbound_controller.step_policy import CurveLayout

EXIT_LAYERS = (2, 4)
NUM_LAYERS = 12


def random_mlp(rng: np.random.Generator, inputs: int, hidden: int, outputs: int) -> Mlp:
    shapes = ((hidden, inputs), (hidden,), (outputs, hidden), (outputs,))
    return Mlp(*(rng.normal(scale=0.3, size=shape).astype(np.float32) for shape in shapes))


def table(
    row_slope: float = 0.1,
    head: float = 1.0,
    layer_s: float = 1e-3,
    per_context: float = 0.0,
    decision: float = 0.0,
) -> CostTable:
    """In units of a one-row layer call: r rows cost 1 + row_slope * (r - 1), a head read and a decision theirs."""
    seconds = dict.fromkeys(WORK_NAMES, 0.0)
    for rows in ROW_KNOTS:
        seconds[f"layer_calls_rows_{rows}"] = layer_s * (1 + row_slope * (rows - 1))
    seconds |= {"head_reads": head * layer_s, "decisions": decision * layer_s}
    seconds["layer_rows_times_context"] = per_context
    return CostTable(seconds, "none", "synthetic", 0.0, 300)


def make_controller(seed: int = 0, **changes: object) -> Controller:
    rng = np.random.default_rng(seed)
    actions = action_grid(EXIT_LAYERS, (1, 2, 4), (0.4, 0.7))
    fields: dict[str, object] = {
        "exit_layers": EXIT_LAYERS,
        "num_layers": NUM_LAYERS,
        "model_fingerprint": "a" * 64,
        "compressions": ("none",),
        "actions": actions,
        "alpha": 0.25,
        "slopes": (1.1, 0.9),
        "offsets": (0.1, -0.2),
        "costs": {"none": table()},
        "prompts_hash": "b" * 64,
        "versions": {"numpy": "2"},
        "summary": {"levels": [1.5, None]},
    }
    features = rng.random((50, len(FEATURE_NAMES))).astype(np.float32)
    features[:, FEATURE_NAMES.index("compression_none")] = 1.0
    features[:, FEATURE_NAMES.index("compression_none") + 1 :] = 0.0
    features[:, FEATURE_NAMES.index("log_context_length")] = np.log1p(rng.integers(5, 200, size=50))
    score_inputs = len(SIGNAL_NAMES) + len(EXIT_LAYERS) + len(FEATURE_NAMES)
    return Controller(
        ControllerConfig(**{**fields, **changes}),  # type: ignore[arg-type]
        random_mlp(rng, score_inputs, 8, 1),
        random_mlp(rng, len(FEATURE_NAMES), 8, CurveLayout(actions).num_outputs),
        Sample(features, np.ones(50, dtype=np.float32)),
    )


def make_record(**changes: object) -> StepRecord:
    """A step at exit 2 that drafted 3 tokens and had 1 accepted."""
    fields: dict[str, object] = {
        "context_length": 10,
        "num_drafted": 3,
        "num_accepted": 1,
        "num_emitted": 2,
        "exit_layers": (2, 2, 2),
        "scores": (0.9, 0.8, 0.7),
        "confidences": (0.9, 0.8, 0.4),
        "entropies_nats": (0.1, 0.2, 0.6),
        "stop_reason": "width",
        "layer_calls_by_rows": {1: 8, 4: 10},
        "head_reads_by_rows": {1: 3, 4: 1},
        "num_exit_tests": 3,
        "full_confidence": 0.75,
        "full_entropy_nats": 0.5,
        "full_margin": 1.5,
    }
    return StepRecord(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture
def controller_of() -> Callable[..., Controller]:
    return make_controller


@pytest.fixture
def record_of() -> Callable[..., StepRecord]:
    return make_record


@pytest.fixture
def costs_of() -> Callable[..., CostTable]:
    return table


@pytest.fixture
def mlp_of() -> Callable[..., Mlp]:
    return random_mlp
