"""Fits of the tiny perceptrons."""

import numpy as np
import pytest
import torch

from specbound_controller.mlp import Mlp, sigmoid
from specbound_train.modules import FitSettings, Perceptron, Rows, average, fit, fit_folds

SETTINGS = FitSettings(hidden_units=8, epochs=20, learning_rate=1e-2, weight_decay=1e-2, seed=0)


def rows_of(seed: int, num_rows: int = 1500) -> Rows:
    """Two targets: one follows the first input, the other is true in 30 % of the rows; a quarter is unknown."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(loc=5.0, scale=3.0, size=(num_rows, 4)).astype(np.float32)
    inputs[:, 3] = 7.0
    first = rng.random(num_rows) < 1 / (1 + np.exp(-(inputs[:, 0] - 5)))
    targets = np.stack((first, rng.random(num_rows) < 0.3), axis=1)
    is_known = rng.random(targets.shape) < 0.75
    return Rows(inputs, np.where(is_known, targets, ~targets), is_known)


def fit_one(fold: int, rows: Rows, tune: Rows, settings: FitSettings) -> Mlp:
    return fit(rows, tune, settings, None)


def test_fit_learns_what_is_there_and_no_more() -> None:
    mlp = fit(rows_of(0), rows_of(1), SETTINGS, None)
    probe = np.full((3, 4), 5.0, dtype=np.float32)
    probe[:, 0] = (2.0, 5.0, 8.0)
    probability = sigmoid(mlp(probe))
    np.testing.assert_allclose(probability[:, 0], 1 / (1 + np.exp(-(probe[:, 0] - 5))), atol=0.1)
    np.testing.assert_allclose(probability[:, 1], 0.3, atol=0.07)


def test_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    weights = [fit(rows_of(0), rows_of(1), FitSettings(8, 2, 1e-2, 1e-2, seed), None).weight1 for seed in (0, 0, 1)]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


def test_fit_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    fit(rows_of(0, 100), rows_of(1, 50), FitSettings(4, 1, 1e-2, 0.0, 0), None)
    assert torch.equal(torch.rand(1), wanted)


def test_input_that_never_varied_gets_no_weight() -> None:
    mlp = fit(rows_of(0), rows_of(1), SETTINGS, None)
    assert np.abs(mlp.weight1[:, 3]).max() == 0.0


def test_numpy_inference_equals_the_module() -> None:
    torch.manual_seed(0)
    module = Perceptron(torch.randn(5), torch.rand(5) + 0.5, torch.randn(3), SETTINGS, 10)
    torch.nn.init.normal_(module.output.weight)
    inputs = torch.randn(20, 5)
    np.testing.assert_allclose(module.to_numpy()(inputs.numpy()), module(inputs).detach().numpy(), atol=1e-5)


def test_noise_is_not_fitted_beyond_the_constant() -> None:
    """Where the inputs say nothing, held-out loss keeps the constant fit or one as good."""
    rng = np.random.default_rng(0)
    rows, tune = (
        Rows(rng.normal(size=(n, 6)).astype(np.float32), rng.random((n, 1)) < 0.7, np.ones((n, 1), bool))
        for n in (60, 400)
    )
    mlp = fit(rows, tune, SETTINGS, None)
    probability = sigmoid(mlp(tune.inputs))[:, 0]
    loss = -np.log(np.where(tune.targets[:, 0], probability, 1 - probability)).mean()
    share = (rows.targets.sum() + 1) / (len(rows.targets) + 2)
    constant = -np.log(np.where(tune.targets[:, 0], share, 1 - share)).mean()
    assert loss <= constant + 1e-4


def test_fit_is_quiet(capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    fit(rows_of(0, 100), rows_of(1, 50), FitSettings(4, 1, 1e-2, 0.0, 0), None)
    captured = capfd.readouterr()
    assert captured.out == captured.err == "" and len(recwarn) == 0


@pytest.mark.parametrize("epochs", [1, 2, 9, 10, 11, 20])
def test_a_fit_may_take_any_number_of_steps(epochs: int) -> None:
    """One step an epoch; torch's schedule divides by zero where its rise is one step long."""
    mlp = fit(rows_of(0, 20), rows_of(1, 10), FitSettings(2, epochs, 1e-2, 0.0, 0, patience=100), None)
    assert np.isfinite(mlp.weight1).all()


def test_each_fold_is_fitted_without_its_own_rows() -> None:
    """Rows of a fold whose targets are all turned around do not move that fold's perceptron, only the others."""
    rows, folds = rows_of(0, 600), np.arange(600) % 3
    settings = FitSettings(6, 1, 1e-2, 0.0, 0, patience=100)
    turned = Rows(rows.inputs, np.where(folds[:, None] == 1, ~rows.targets, rows.targets), rows.is_known)
    plain, changed = (fit_folds(part, folds, settings, fit_one) for part in (rows, turned))
    np.testing.assert_array_equal(plain[1].weight1, changed[1].weight1)
    assert not np.array_equal(plain[0].weight1, changed[0].weight1)
    assert [mlp.weight1.shape[0] for mlp in plain] == [2, 2, 2]


def test_average_is_the_mean_of_the_logits() -> None:
    rows = rows_of(0, 300)
    mlps = fit_folds(rows, np.arange(300) % 3, FitSettings(6, 1, 1e-2, 0.0, 0), fit_one)
    wanted = np.mean([mlp(rows.inputs) for mlp in mlps], axis=0)
    np.testing.assert_allclose(average(mlps)(rows.inputs), wanted, atol=1e-5)
