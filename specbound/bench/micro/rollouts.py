"""How far replay is off without roll-outs, as a table: `python -m specbound.bench.micro rollouts`. Knows no model."""

from collections.abc import Sequence

from specbound_controller.policy import AnnealedConfidence
from specbound_controller.records import Decision
from specbound_profiling.log.store import open_log
from specbound_profiling.replay.replay import replay_static


def rollouts(
    log: str, compression: str = "none", thresholds: Sequence[float] = (0.0, 0.2, 0.4), width: int = 8
) -> None:
    """How far replay is off where no roll-out says what follows a wrong draft, on an exact log (--rollout-rate 1).

    Seconds of the log's cost table; every exit layer alone, its threshold on plain confidence, 0 drafts untested.
    """
    found = open_log(log)
    traces, costs, num_layers = found.traces(compression), found.costs[compression], found.manifest.num_layers
    bare = [trace.without_rollouts() for trace in traces]
    print(f"{len(traces)} prompts, {sum(trace.num_positions for trace in traces)} positions\n")
    print("| exit layer | threshold | estimated share | error of all seconds |\n|---|---|---|---|")
    for exit_layer in found.manifest.exit_layers:
        for threshold in thresholds:
            decision = Decision(width, {exit_layer: threshold}, AnnealedConfidence(0.0))
            exact, estimate = (replay_static(each, decision, costs, num_layers) for each in (traces, bare))
            error = estimate.seconds.sum() / exact.seconds.sum() - 1
            print(f"| {exit_layer} | {threshold:g} | {estimate.estimated_share:.1%} | {error:+.2%} |")
