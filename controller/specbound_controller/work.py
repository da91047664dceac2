"""Counts of work of a controller's step with a single exit layer, and its expectation over how far the draft gets.

A controller's step has two counts that a static one has not: its decision, and one more pass of logit statistics
for the full model's signals.
"""

import math
from collections.abc import Sequence

import numpy as np

from specbound_controller.actions import Action
from specbound_controller.costs import WORK_NAMES, work_vector
from specbound_controller.lookup import LOOKUP_EXIT
from specbound_controller.records import StepRecord


def record_work(record: StepRecord, is_adaptive: bool) -> np.ndarray:
    """Counts of work of a step that was taken. (W,)

    is_adaptive: whether the policy reads features, and so pays for a decision, and for one more pass of logit
        statistics where the record holds the full model's signals.
    """
    has_full_signals = is_adaptive and not math.isnan(record.full_confidence)
    return work_vector(
        record.layer_calls_by_rows,
        record.head_reads_by_rows,
        record.num_exit_tests + has_full_signals,
        record.context_length,
        num_decisions=int(is_adaptive),
        num_learned_scores=record.num_learned_scores,
    )


def single_exit_work(
    exit_layer: int,
    num_layers: int,
    num_drafted: int,
    num_reads: int,
    is_tested: bool,
    context_length: int,
    is_learned: bool = False,
) -> np.ndarray:
    """Work of a step that drafts at one exit layer: (W,).

    Every drafted token and the one before them runs the shallow layers alone; the deep layers and the head then
    take all of them in one call each.

    Args:
        num_reads: Head reads of one row while drafting: one a draft token, one more if the draft failed a test.
        is_tested: Whether reads were tested, that is, whether the threshold was above 0. A lookup (exit layer 0) reads
            no head and takes no statistics; its score may be a learned one all the same.
        is_learned: Whether the score that they were tested by is a learned one.

    Counts one decision, and one exit test for the full model's signals.
    """
    rows = num_drafted + 1
    layer_calls = {1: exit_layer * rows}
    layer_calls[rows] = layer_calls.get(rows, 0) + num_layers - exit_layer
    has_head = exit_layer != LOOKUP_EXIT
    head_reads = {1: num_reads * has_head}
    head_reads[rows] = head_reads.get(rows, 0) + 1
    num_tests = num_reads * has_head if is_tested else 0
    num_scores = num_reads if is_tested and is_learned else 0
    return work_vector(layer_calls, head_reads, 1 + num_tests, context_length, num_learned_scores=num_scores)


def expected_work_weights(actions: Sequence[Action], num_layers: int, context_length: int) -> np.ndarray:
    """Weights that turn "the draft reached j tokens" probabilities into expected work. (A, J + 1, W)

    With `d_0 = 1` and `d_j = P(at least j drafted)`, expected work is `sum_j d_j * weights[j]`; J is the largest
    width of the grid, and weights beyond an action's width are zero.
    """
    longest = max(action.width for action in actions)
    weights = np.zeros((len(actions), longest + 1, len(WORK_NAMES)))
    for a, action in enumerate(actions):
        is_tested, is_learned = action.threshold > 0.0, action.score == "learned"
        score = (is_tested, context_length, is_learned)

        def work(
            drafted: int, reads: int, action: Action = action, score: tuple[bool, int, bool] = score
        ) -> np.ndarray:
            return single_exit_work(action.exit_layer, num_layers, drafted, reads, *score)

        # A draft that fails a test at k < width has read the head k + 1 times, a full one `width` times.
        reached = [work(k, k + 1) for k in range(action.width)] + [work(action.width, action.width)]
        weights[a, 0] = reached[0]
        for k in range(1, action.width + 1):
            weights[a, k] = reached[k] - reached[k - 1]
    return weights
