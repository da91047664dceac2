"""The result in words: how much faster, how sure, where it comes from; or that nothing pays. Measures nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from specbound_controller.figures import share
from specbound_controller.policy_names import reads_exits
from specbound_controller.settings import in_words

PAYS = 1.03
"""Least speedup that is worth a setting."""
NOTHING = "nothing here pays; use plain decoding"
_NAMES = {
    "lookup": "the context",
    "context": "the context",
    "bigrams": "the model's bigrams",
    "recycled": "the model's earlier second choices",
    "own_text": "its own text",
}


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured on prompts that nothing was chosen on."""

    policy: str
    speedup: float
    low: float | None
    """Of the 95 % interval over prompts; None where there are too few for one."""
    high: float | None
    tokens_per_second: float
    plain_tokens_per_second: float
    reference: str
    """What the speedup is over: `plain`, or `transformers` where its generate is faster."""
    outputs_equal: bool
    num_near_ties: int
    num_prompts: int
    num_tokens: int
    accepted_by_source: Mapping[str, int]
    slowdown: float
    """Of the machine in between, 0.1 is 10 %."""

    @property
    def pays(self) -> bool:
        """Whether it is faster than plain decoding by more than noise alone would say."""
        return self.speedup >= PAYS and (self.outputs_equal or self.num_near_ties > 0)

    @property
    def is_sure(self) -> bool:
        """Whether the whole interval is above 1."""
        return self.low is not None and self.low > 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of a fit."""

    policy: str
    """What to play: `plain` where nothing pays."""
    sentences: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.sentences)


def answer(
    model: str,
    compression: str,
    machine: str,
    measured: Measured | None,
    finalists: Mapping[str, float],
    agreement: Mapping[int, float],
    has_trained: bool = False,
) -> Answer:
    """measured: of the winner of the final race; None where plain decoding has won it.

    finalists: policy -> speed over plain decoding in the final race.
    agreement: exit layer -> share of the positions where it agrees with the full model.
    has_trained: whether these exits are trained ones.
    """
    level = "fp32" if compression == "none" else compression
    head = f"{model}, {level}, this machine ({machine})"
    if measured is None or not measured.pays:
        found = (*_tried(measured, finalists), *_brought(finalists, has_trained), *_exits(agreement, None, has_trained))
        return Answer("plain", (f"{head}: {NOTHING}.", *found))
    same = "same output" if measured.outputs_equal else f"same output but for {measured.num_near_ties} near-ties"
    over = "plain decoding" if measured.reference == "plain" else "transformers' generate, the faster of the two"
    first = f"{head}: {measured.speedup:.2f}x {over}{_interval(measured)}, {same}."
    lines = [
        first,
        _plays(measured.policy),
        *_gains(measured.accepted_by_source),
        *_brought(finalists, has_trained),
        *_exits(agreement, measured.accepted_by_source, has_trained),
        *_doubts(measured),
    ]
    return Answer(measured.policy, tuple(lines))


def _plays(policy: str) -> str:
    words = in_words(policy)
    return "It plays the trained controller." if words == "controller" else f"It plays {words} ({policy})."


def _interval(measured: Measured) -> str:
    if measured.low is None or measured.high is None:
        return f" (too few prompts, {measured.num_prompts}, for an interval)"
    return f" ({measured.low:.2f} to {measured.high:.2f} over {measured.num_prompts} prompts)"


def _gains(accepted: Mapping[str, int]) -> list[str]:
    """Where accepted drafts came from, the most first."""
    total = sum(accepted.values())
    if not total:
        return []
    by_count = sorted(accepted.items(), key=lambda item: -item[1])
    parts = [f"{_source(name)} ({share(count / total)})" for name, count in by_count if count >= 0.02 * total]
    return [f"Accepted drafts come from {_joined(parts)}."]


def _source(name: str) -> str:
    return _NAMES.get(name, name.replace("_", " "))


def _joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _brought(finalists: Mapping[str, float], has_trained: bool) -> list[str]:
    """What trained exits brought, where there are any: the fastest of the last race with and without them."""
    reading, others = (
        max(
            (speed for name, speed in finalists.items() if name != "plain" and reads_exits(name) is reads), default=None
        )
        for reads in (True, False)
    )
    if not has_trained or reading is None:
        return []
    without = max(1.0, others or 1.0)
    verb = "bring" if reading > without else "do not pay here"
    gain = f" {share(reading / without - 1, 1)}" if reading > without else ""
    return [f"The trained exits {verb}{gain}: {reading:.2f}x with them, {without:.2f}x without, in the last race."]


def _exits(agreement: Mapping[int, float], accepted: Mapping[str, int] | None, has_trained: bool) -> list[str]:
    """How often shallow layers agree, where none of them drafts."""
    exits = {layer: agreed for layer, agreed in agreement.items() if layer > 0}
    if not exits or any(name.startswith("exit") for name in accepted or ()):
        return []
    low, high = (f"{100 * value:.0f}" for value in (min(exits.values()), max(exits.values())))
    where = f"layers {min(exits)} to {max(exits)}"
    if has_trained:
        return [f"The trained exits agree {low} to {high} % ({where})."]
    return [f"Exits of this model agree {low} to {high} % ({where}): not used. specbound train-exits may help."]


def _tried(measured: Measured | None, finalists: Mapping[str, float]) -> list[str]:
    tried = {name: speed for name, speed in finalists.items() if name != "plain"}
    if measured is not None:
        bounds = _interval(measured)
        return [f"The best that was found, {in_words(measured.policy)}, measures {measured.speedup:.2f}x{bounds}."]
    if not tried:
        return []
    best = max(tried, key=lambda name: tried[name])
    return [f"The best of {len(tried)} finalists, {in_words(best)}, reached {tried[best]:.2f}x in the last race."]


def _doubts(measured: Measured) -> list[str]:
    lines = []
    if measured.low is not None and not measured.is_sure:
        lines.append("The interval holds 1.00x, so this may be noise: more prompts (--prompts, --minutes) would tell.")
    if measured.slowdown > 0.1:
        lines.append(
            f"The machine was busy meanwhile (it slowed down by {measured.slowdown:.0%}): take this with care."
        )
    return lines


def measured_of(values: Mapping[str, Any] | None) -> Measured | None:
    """What `asdict` made of one, also through JSON."""
    return None if values is None else Measured(**values)
