"""Counts of work of a controller's step: of one that was taken, and of one that drafts at a single exit layer.

A controller's step has two counts that a static one has not: its decision, and one more pass of logit statistics
for the full model's signals.
"""

import math

import numpy as np

from specbound_controller.costs import StepPrices, work_vector
from specbound_controller.lookup import LOOKUP_EXIT
from specbound_controller.records import StepRecord


def step_seconds(record: StepRecord, prices: StepPrices, is_adaptive: bool) -> float:
    """Modelled seconds of `record_work`, of one step after another."""
    has_full_signals = is_adaptive and not math.isnan(record.full_confidence)
    return prices.seconds(
        record.layer_calls_by_rows,
        record.head_reads_by_rows,
        record.num_exit_tests + has_full_signals,
        record.context_length,
        num_decisions=int(is_adaptive),
        num_learned_scores=record.num_learned_scores,
    )


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
    has_full_signals: bool = True,
) -> np.ndarray:
    """Work of a step that drafts at one exit layer: (W,).

    Every drafted token and the one before them runs the shallow layers alone; the deep layers and the head then
    take all of them in one call each.

    Args:
        num_reads: Head reads of one row while drafting: one a draft token, one more if the draft failed a test.
        is_tested: Whether reads were tested, that is, whether the threshold was above 0. A lookup (exit layer 0) reads
            no head and takes no statistics; its score may be a learned one all the same.
        is_learned: Whether the score that they were tested by is a learned one.
        has_full_signals: Whether the full model's signals were taken, which counts as one exit test.

    Counts one decision.
    """
    rows = num_drafted + 1
    layer_calls = {1: exit_layer * rows}
    layer_calls[rows] = layer_calls.get(rows, 0) + num_layers - exit_layer
    has_head = exit_layer != LOOKUP_EXIT
    head_reads = {1: num_reads * has_head}
    head_reads[rows] = head_reads.get(rows, 0) + 1
    num_tests = num_reads * has_head if is_tested else 0
    num_scores = num_reads if is_tested and is_learned else 0
    return work_vector(
        layer_calls, head_reads, has_full_signals + num_tests, context_length, num_learned_scores=num_scores
    )


def exit_pass_work(exit_layer: int, is_read: bool = False, is_learned: bool = False) -> np.ndarray:
    """Work of running the shallow layers on some pending tokens now and on the others later, beyond that of running
    them on all at once; taken to be that of two rows and two rows instead of four. (W,)

    is_read: with the head read and the test that such a run is for; is_learned as for `single_exit_work`.
    """
    read = int(is_read)
    split = work_vector({2: 2 * exit_layer}, {1: read}, read, 0, num_learned_scores=read * is_learned)
    split -= work_vector({4: exit_layer}, {}, 0, 0)
    return split
