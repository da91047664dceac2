"""The fastest of several methods by the clock: successive halving on prompts. Knows no policy and no replay.

In each round all that are left decode the same prompts, interleaved; the slower half leaves and the next round takes
twice as many prompts, the last one all of them. What a method did in earlier rounds counts on.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from specbound.evaluation.timing import ContentionProbe, Method, TimedPrompt, time_methods
from specbound_profiling.prompts.files import spread

OnRound = Callable[[int, int], None]
"""Told how many methods decode how many prompts in the round that begins."""


@dataclass(slots=True)
class Standing:
    """What one method has done so far."""

    name: str
    num_tokens: int = 0
    seconds: float = 0.0
    num_runs: int = 0
    """Prompts decoded, those of earlier rounds among them"""
    reference_tokens: int = 0
    reference_seconds: float = 0.0
    """Of the reference on the same prompts in the same rounds"""

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.seconds

    @property
    def over_reference(self) -> float:
        """Tokens per second over the reference's on the same prompts; those of methods that left early compare too."""
        return self.tokens_per_second / (self.reference_tokens / self.reference_seconds)


def successive_halving(
    methods: Sequence[Method],
    reference: Method,
    prompts: Sequence[TimedPrompt],
    probe: ContentionProbe,
    on_round: OnRound | None = None,
) -> list[Standing]:
    """Every method's standing, the fastest first, after it those that left in the last round, and so on.

    reference: decodes in every round too and never leaves; it wins where it is the fastest of all.
    """
    standings = {method.name: Standing(method.name) for method in (*methods, reference)}
    left, out = list(methods), list[Standing]()
    num_rounds = max(1, math.ceil(math.log2(len(methods))))
    for number in range(num_rounds):
        chosen = _prompts_of_round(prompts, number, num_rounds)
        if on_round is not None:
            on_round(len(left), len(chosen))
        _decode([*left, reference], reference.name, chosen, standings, probe)
        left.sort(key=lambda method: -standings[method.name].tokens_per_second)
        num_staying = math.ceil(len(left) / 2)
        out = [*(standings[method.name] for method in left[num_staying:]), *out]
        left = left[:num_staying]
    ranked = [*(standings[method.name] for method in left), *out]
    own = standings[reference.name]
    place = next((i for i, standing in enumerate(ranked) if standing.over_reference < 1.0), len(ranked))
    return [*ranked[:place], own, *ranked[place:]]


def _prompts_of_round(prompts: Sequence[TimedPrompt], number: int, num_rounds: int) -> list[TimedPrompt]:
    """All in the last round, half as many in each one before; as even over the kinds of content as they allow."""
    count = max(1, math.ceil(len(prompts) / 2 ** (num_rounds - 1 - number)))
    return [prompts[i] for i in spread([prompt.task for prompt in prompts], count)]


def _decode(
    methods: Sequence[Method],
    reference: str,
    prompts: Sequence[TimedPrompt],
    standings: dict[str, Standing],
    probe: ContentionProbe,
) -> None:
    timings = time_methods(methods, prompts, 1, probe)
    totals = {name: (sum(len(t.tokens) for t in each), sum(t.seconds for t in each)) for name, each in timings.items()}
    for name, (num_tokens, seconds) in totals.items():
        standing = standings[name]
        standing.num_tokens += num_tokens
        standing.seconds += seconds
        standing.num_runs += len(prompts)
        standing.reference_tokens += totals[reference][0]
        standing.reference_seconds += totals[reference][1]
