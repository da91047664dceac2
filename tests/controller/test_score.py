"""The learned score: numpy equals torch, one exit equals arrays of them, calibration."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from specbound_controller.controller import Controller
from specbound_controller.features import FEATURE_NAMES
from specbound_controller.mlp import Mlp, sigmoid, standardised
from specbound_controller.records import ExitSignals
from specbound_controller.score import LearnedScore, signal_array, signal_values


def signals(rng: np.random.Generator, exit_layer: int, index: int) -> ExitSignals:
    c = float(rng.random())
    shown = (c, c, float(3 * rng.random()), float(30 * rng.random()), -25.0, c)
    return ExitSignals(exit_layer, index, 5, *shown, int(rng.integers(4, 7)), int(rng.integers(1, 9)), c)


def test_perceptron_equals_torch(mlp_of: Callable[..., Mlp]) -> None:
    rng = np.random.default_rng(0)
    mean, std = rng.normal(size=7), rng.random(7) + 0.1
    first, second = torch.nn.Linear(7, 5), torch.nn.Linear(5, 3)
    arrays = (first.weight, first.bias, second.weight, second.bias)
    mlp = standardised(mean, 1 / std, *(array.detach().numpy() for array in arrays))
    inputs = rng.normal(size=(11, 7)).astype(np.float32)
    scaled = torch.from_numpy(((inputs - mean) / std).astype(np.float32))
    wanted = second(torch.relu(first(scaled))).detach().numpy()
    np.testing.assert_allclose(mlp(inputs), wanted, atol=1e-5)
    np.testing.assert_allclose(np.stack([mlp(row) for row in inputs]), wanted, atol=1e-5)
    np.testing.assert_allclose(sigmoid(wanted), torch.from_numpy(wanted).sigmoid().numpy(), atol=1e-6)


def test_input_that_never_varied_has_no_effect() -> None:
    rng = np.random.default_rng(0)
    mlp = standardised(
        np.zeros(3), np.array([1.0, 0.0, 1.0]), rng.normal(size=(4, 3)), rng.normal(size=4), rng.normal(size=(1, 4)),
        np.zeros(1),
    )  # fmt: skip
    inputs = np.ones((2, 3), dtype=np.float32)
    inputs[1, 1] = 100.0
    np.testing.assert_array_equal(mlp(inputs)[0], mlp(inputs)[1])


def test_shifted_perceptron_equals_shifted_inputs(mlp_of: Callable[..., Mlp]) -> None:
    rng = np.random.default_rng(1)
    mlp, inputs, change = mlp_of(rng, 6, 4, 2), rng.random((5, 6)).astype(np.float32), rng.random(6)
    np.testing.assert_allclose(mlp.shifted(change)(inputs), mlp((inputs + change).astype(np.float32)), atol=1e-5)


def test_one_exit_scores_like_arrays_of_exits(controller_of: Callable[..., Controller]) -> None:
    score = controller_of().score
    rng = np.random.default_rng(0)
    for exit_layer in score.exit_layers:
        rows = [signals(rng, exit_layer, index) for index in range(6)]
        features = rng.random((6, len(FEATURE_NAMES))).astype(np.float32)
        array = signal_array(
            *(
                np.array([getattr(row, name) for row in rows])
                for name in (
                    "confidence", "entropy_nats", "margin", "noised_margin", "draft_probability", "draft_index",
                    "lookup_agreement", "lookup_length", "lookup_probability",
                )
            )
        )  # fmt: skip
        np.testing.assert_allclose(array, np.array([signal_values(row) for row in rows]), atol=1e-5)
        one_by_one = [score(row, vector) for row, vector in zip(rows, features, strict=True)]
        many = score.probabilities_at(array, np.full(6, exit_layer), features)
        np.testing.assert_allclose(many, one_by_one, atol=1e-6)


def test_score_equals_torch_and_applies_calibration(controller_of: Callable[..., Controller]) -> None:
    score = controller_of().score
    rng = np.random.default_rng(3)
    row, features = signals(rng, 4, 2), rng.random(len(FEATURE_NAMES)).astype(np.float32)
    inputs = torch.tensor([*signal_values(row), 0.0, 1.0, *features.tolist()], dtype=torch.float32)
    weight1, bias1, weight2, bias2 = (torch.from_numpy(value) for value in score.mlp.arrays("s").values())
    logit = weight2 @ torch.relu(weight1 @ inputs + bias1) + bias2
    assert score(row, features) == pytest.approx(torch.sigmoid(0.9 * logit - 0.2).item(), abs=1e-6)


def test_extreme_signals_give_probabilities(controller_of: Callable[..., Controller]) -> None:
    score = controller_of().score
    features = np.zeros(len(FEATURE_NAMES), dtype=np.float32)
    for confidence in (0.0, 1.0):
        value = score(ExitSignals(2, 0, 1, confidence, confidence, 0.0, 1e9, -1e9, confidence), features)
        assert 0.0 <= value <= 1.0 and math.isfinite(value)


def test_score_without_features_is_refused(controller_of: Callable[..., Controller]) -> None:
    with pytest.raises(ValueError, match="features must be given"):
        controller_of().score(signals(np.random.default_rng(0), 2, 0), None)


def test_perceptron_of_the_wrong_size_is_refused(mlp_of: Callable[..., Mlp]) -> None:
    with pytest.raises(ValueError, match="must map 46 inputs to 1, got 5 to 1"):
        LearnedScore(mlp_of(np.random.default_rng(0), 5, 4, 1), (2, 4), (1.0, 1.0), (0.0, 0.0))
