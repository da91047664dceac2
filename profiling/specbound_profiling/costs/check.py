"""A cost table against live decoding by kind of step: where prices are wrong for one kind, replay misranks."""

# S steps, W work counts

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.greedy_twin import greedy_twin
from specbound.models.loading import LoadedModel
from specbound_controller.costs import CostTable
from specbound_controller.policy import Policy, StaticPolicy
from specbound_controller.ratio import ratio
from specbound_controller.work import record_work
from specbound_profiling.costs.stopwatch import Stopwatch, TimedSteps, joined

NUM_ROUNDS = 3
"""Times that every kind decodes every prompt; the median of each step counts."""


@dataclass(frozen=True, slots=True)
class KindCheck:
    """One kind of step: a policy's steps on all prompts."""

    kind: str
    num_steps: int
    num_tokens: int
    """Emitted in these steps."""
    live_s: float
    """Measured seconds of all steps at one speed of the machine, the median over the rounds of each."""
    predicted_s: float
    """What the table says they take."""

    @property
    def ratio(self) -> float:
        """Live over predicted seconds; nan where nothing was to be done."""
        return ratio(self.live_s, self.predicted_s)


def usual_kinds(num_layers: int) -> dict[str, Policy]:
    """Plain decoding, fixed drafts, a tested draft, and several exits, for an L-layer model (2, 3, 4, 8 of 16)."""
    first, second, third, half = (max(1, round(num_layers * share)) for share in (1 / 8, 3 / 16, 1 / 4, 1 / 2))
    exits = sorted({first, third, half})
    return {
        "plain": StaticPolicy(()),
        f"exit{first}_width2": StaticPolicy((first,), 0.0, 2),
        f"exit{second}_width3": StaticPolicy((second,), 0.0, 3),
        f"exit{third}_width3_annealed0.5": StaticPolicy((third,), 0.5, 3, alpha=0.5),
        f"exits{'_'.join(map(str, exits))}_width4": StaticPolicy(exits, 0.6, 4),
    }


def check_costs(
    loaded: LoadedModel,
    prompt_ids: Sequence[Tensor],
    table: CostTable,
    kinds: Mapping[str, Policy],
    max_new_tokens: int = 48,
    num_rounds: int = NUM_ROUNDS,
    probe_s: float | None = None,
) -> list[KindCheck]:
    """Live against predicted seconds of every kind, all kinds interleaved prompt by prompt.

    Args:
        prompt_ids: (1, T) each.
        probe_s: speed of the machine that the table was measured at; None takes the usual speed of this check.
    """
    model = greedy_twin(loaded.model, has_end=False)
    decoder = SpecBoundDecoder(model, compression=loaded.compression, exactness=table.exactness, exits=loaded.exits)
    watch, names = Stopwatch(decoder), list(kinds)
    rounds: dict[str, list[TimedSteps]] = {kind: [] for kind in kinds}
    for policy in kinds.values():
        decoder.policy = policy
        watch.decode(prompt_ids[0], max_new_tokens)  # warm-up
    for number in range(num_rounds):
        parts: dict[str, list[TimedSteps]] = {kind: [] for kind in kinds}
        for index, ids in enumerate(prompt_ids):
            first = (index + number) % len(names)
            for kind in names[first:] + names[:first]:
                decoder.policy = kinds[kind]
                parts[kind].append(watch.decode(ids, max_new_tokens))
        for kind in kinds:
            rounds[kind].append(joined(parts[kind]))
    if probe_s is None:
        probe_s = float(np.median(np.concatenate([timed.probe_s for each in rounds.values() for timed in each])))
    return [_checked(kind, rounds[kind], table, kinds[kind], probe_s) for kind in kinds]


def _checked(kind: str, rounds: Sequence[TimedSteps], table: CostTable, policy: Policy, probe_s: float) -> KindCheck:
    records = rounds[0].records
    work = np.array([record_work(record, policy.needs_features) for record in records])
    return KindCheck(
        kind=kind,
        num_steps=len(records),
        num_tokens=sum(record.num_emitted for record in records),
        live_s=float(np.median([timed.at_speed(probe_s) for timed in rounds], axis=0).sum()),
        predicted_s=float(table.seconds(work).sum()),
    )
