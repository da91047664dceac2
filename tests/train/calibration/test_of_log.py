"""Calibration of a log: known miscalibration is found and undone, on prompts that nothing was fitted on."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from specbound_controller.errors import InputError
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.report.records import SCORE_NAMES
from specbound_train.calibration.of_log import calibrate, judged_prompts

TracesOf = Callable[..., list[PromptTrace]]
NUM_LAYERS = 12


@pytest.fixture(scope="module")
def overconfident(traces_of: TracesOf) -> list[PromptTrace]:
    """Exits whose logits are too large by what annealing with alpha 0.8 undoes."""
    rng, traces = np.random.default_rng(0), []
    for trace in traces_of(0, 40, 200):
        temperatures = [1 + 0.8 * (1 - e / NUM_LAYERS) for e in trace.exit_layers]
        logits = rng.normal(scale=3.0, size=(*trace.confidence.shape, 6))
        fair = logits / np.array(temperatures)[:, None]
        labels = (fair + rng.gumbel(size=fair.shape)).argmax(-1)
        scaled = logits[..., None, :] / np.array(trace.temperatures)[:, None]
        log_probability = scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))
        confidence_at = np.exp(log_probability.max(-1)).astype(np.float32)
        label_nll = -np.take_along_axis(log_probability, labels[..., None, None], -1)[..., 0]
        traces.append(
            replace(
                trace,
                is_accepted=logits.argmax(-1) == labels,
                confidence=confidence_at[..., 0],
                confidence_at=confidence_at,
                label_nll_at=label_nll.astype(np.float32),
            )
        )
    return traces


def test_known_overconfidence_is_found_and_undone(overconfident: list[PromptTrace]) -> None:
    level = calibrate(overconfident[:20], overconfident[20:], NUM_LAYERS)
    assert level.alpha == level.likely_alpha == pytest.approx(0.8, abs=0.08)
    assert (level.num_fitted, level.num_judged) == (20, 20)
    for each in level.of_task("all"):
        errors = {name: measures.ece for name, measures in each.measures.items()}
        assert tuple(errors) == SCORE_NAMES
        assert errors["plain"] > 0.1
        assert all(errors[name] < 0.05 for name in SCORE_NAMES[1:]), errors
        assert each.measures["annealed"].brier < each.measures["plain"].brier
        assert each.measures["logistic"].auroc == pytest.approx(each.measures["plain"].auroc)
        assert level.own_temperatures[each.exit_layer] == pytest.approx(
            level.annealed_temperatures[each.exit_layer], abs=0.08
        )


def test_an_alpha_that_is_asked_for_is_judged_instead(overconfident: list[PromptTrace]) -> None:
    level = calibrate(overconfident[:20], overconfident[20:], NUM_LAYERS, alpha=0.0)
    assert (level.alpha, level.likely_alpha) == (0.0, pytest.approx(0.8, abs=0.08))
    for each in level.of_task("all"):
        assert each.measures["annealed"] == each.measures["plain"]
    with pytest.raises(InputError, match="use a smaller alpha"):
        calibrate(overconfident[:20], overconfident[20:], NUM_LAYERS, alpha=3.0)


def test_a_lookup_has_no_temperature(overconfident: list[PromptTrace]) -> None:
    """Exit layer 0 has no logits: nan in `label_nll_at`, one confidence for all temperatures."""
    looked_up = []
    for trace in overconfident:
        nll, confidence = trace.label_nll_at.copy(), trace.confidence_at.copy()
        nll[:, 0], confidence[:, 0] = np.nan, trace.confidence[:, :1]
        layers = (0, *trace.exit_layers[1:])
        looked_up.append(replace(trace, exit_layers=layers, label_nll_at=nll, confidence_at=confidence))
    level = calibrate(looked_up[:20], looked_up[20:], NUM_LAYERS)
    assert level.annealed_temperatures[0] == level.own_temperatures[0] == 1.0 and 0 not in level.exits_at_edge
    first, *others = level.of_task("all")
    assert first.measures["annealed"] == first.measures["temperature"] == first.measures["plain"]
    assert level.alpha == pytest.approx(0.8, abs=0.1) and others


def test_judging_prompts_are_not_fitted_on(overconfident: list[PromptTrace]) -> None:
    fitted, judged = overconfident[:20], overconfident[20:]
    flipped = [replace(t, is_accepted=~t.is_accepted, label_nll_at=t.label_nll_at[::-1] * 7) for t in judged]
    one, other = calibrate(fitted, judged, NUM_LAYERS), calibrate(fitted, flipped, NUM_LAYERS)
    assert (one.alpha, one.own_temperatures) == (other.alpha, other.own_temperatures)
    for a, b in zip(one.of_task("all"), other.of_task("all"), strict=True):
        assert [bin.value for bin in a.reliability["isotonic"]] == [bin.value for bin in b.reliability["isotonic"]]
        assert a.acceptance == pytest.approx(1 - b.acceptance)


def test_kinds_of_content_add_up_and_first_tokens_are_left_out(overconfident: list[PromptTrace]) -> None:
    traces = [replace(t, task="code" if i % 3 else "prose") for i, t in enumerate(overconfident)]
    level = calibrate(traces[:20], traces[20:], NUM_LAYERS)
    assert set(level.tasks) == {"all", "code", "prose"} and level.tasks[0] == "all"
    total, *parts = (level.of_task(task) for task in level.tasks)
    for each in zip(total, *parts, strict=True):
        whole, pieces = each[0], each[1:]
        assert whole.num_rows == 20 * 199 == sum(piece.num_rows for piece in pieces)
        accepted = sum(piece.num_rows * piece.acceptance for piece in pieces)
        assert whole.acceptance == pytest.approx(accepted / whole.num_rows)
        assert sum(b.count for b in whole.by_entropy) == whole.num_rows


def test_prompts_are_split_and_too_few_are_refused(overconfident: list[PromptTrace]) -> None:
    judged = judged_prompts(overconfident, 0.25, seed=0)
    assert len(judged) == 10 and judged == judged_prompts(overconfident, 0.25, seed=0)
    assert judged != judged_prompts(overconfident, 0.25, seed=1)
    with pytest.raises(InputError, match="at least 4 prompts with more than one token, got 3"):
        judged_prompts(overconfident[:3], 0.5, seed=0)
