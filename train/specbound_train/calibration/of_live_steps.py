"""Calibration of live steps: how far the score that a policy drafted by foretold acceptance while it decoded.

Judged are the draft tokens whose predecessors (of a tree: on their path) were all accepted, because only of these the
full model says whether they are right. They cleared their thresholds, so this is how a policy's own drafts turn out,
not all drafts.
"""

# R judged drafts

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from specbound.decoding.stats import ratio
from specbound_controller.records import StepRecord
from specbound_profiling.log.live_steps import LiveSteps
from specbound_profiling.report.records import LiveDrafts, LivePolicy, Measures
from specbound_profiling.report.trees import judged_nodes
from specbound_train.calibration.measures import measures


def calibrate_live(runs: Sequence[LiveSteps]) -> LivePolicy:
    """The live steps of one policy at one level, at least one."""
    records = [record for run in runs for record in run.records]
    rows = [row for record in records for row in _judged(record)]
    longest = max((index for index, *_ in rows), default=-1)
    return LivePolicy(
        policy=runs[0].policy,
        num_prompts=len(runs),
        num_steps=len(records),
        num_emitted=sum(record.num_emitted for record in records),
        num_drafted=sum(record.num_drafted for record in records),
        num_accepted=sum(record.num_accepted for record in records),
        stop_reasons=dict(Counter(record.stop_reason for record in records)),
        drafts=_drafts(rows),
        by_place=tuple(_drafts([row for row in rows if row[0] == place]) for place in range(longest + 1)),
    )


def _judged(record: StepRecord) -> Iterator[tuple[int, float, bool]]:
    """Place in the step (of a tree: its depth, from 0), score and outcome of every judged draft."""
    if record.sources:
        for node in judged_nodes(record):
            yield node.depth - 1, node.score, node.is_accepted
        return
    for place, score in enumerate(record.scores[: record.num_accepted + 1]):
        yield place, score, place < record.num_accepted


def _drafts(rows: Sequence[tuple[int, float, bool]]) -> LiveDrafts:
    scores = np.array([score for _, score, _ in rows], dtype=np.float64)
    outcomes = np.array([is_accepted for *_, is_accepted in rows], dtype=bool)
    is_scored = ~np.isnan(scores)
    return LiveDrafts(
        num_judged=len(rows),
        acceptance=ratio(outcomes.sum(), len(rows)),
        num_scored=int(is_scored.sum()),
        score=ratio(scores[is_scored].sum(), is_scored.sum()),
        scored_acceptance=ratio(outcomes[is_scored].sum(), is_scored.sum()),
        measures=measures(scores[is_scored], outcomes[is_scored])
        if is_scored.any()
        else Measures(math.nan, math.nan, math.nan),
    )
