"""Judges a controller by replay: plain decoding, best static setting, controller and oracle on the same prompts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from specbound_controller.actions import Action
from specbound_controller.controller import Controller
from specbound_controller.policy import AnnealedConfidence
from specbound_profiling.replay.bootstrap import bootstrap_ratio
from specbound_profiling.replay.oracle import oracle
from specbound_profiling.replay.replay import PLAIN, replay, replay_static
from specbound_profiling.replay.result import ReplayResult
from specbound_train.data import LevelData


@dataclass(frozen=True, slots=True)
class LevelSummary:
    """Replayed speeds at one compression level and sampling temperature on the validation prompts; modelled, prefill
    left out."""

    name: str
    """Compression level, and the temperature where the text was sampled."""
    compression: str
    sampling_temperature: float
    """0 under greedy decoding."""
    num_prompts: int
    """Validation prompts."""
    num_tokens: int
    """Tokens they emit in steps."""
    plain_tokens_per_second: float
    best_static: str
    """The static setting that was fastest on the training prompts at this level and temperature."""
    best_static_speedup: float
    """Over plain decoding, like the next ones."""
    best_static_learned: str
    """The one action of the controller's grid that the step policy expects most of."""
    best_static_learned_speedup: float
    """Of that action at every step: the learned score alone."""
    step_policy_speedup: float
    """Of the step policy with its guard, whether or not the controller plays it."""
    controller_speedup: float
    """Of what the controller plays."""
    oracle_speedup: float
    """Clairvoyant: an upper limit for single exits."""
    gain_low: float
    """Controller over best static, 95 % interval over prompts: lower end."""
    gain_high: float
    """Upper end."""
    tokens_per_step: float
    """Of the controller."""
    acceptance_rate: float
    """Of the controller."""
    paused_share: float
    """Share of the controller's steps that the never-slower guard made plain."""
    played_action: Action | None
    """The action that the controller plays at every step of the compression level, where its step policy was not faster
    than the best static setting; else None."""

    @property
    def is_static(self) -> bool:
        """Whether the controller plays one action at every step."""
        return self.played_action is not None

    @property
    def gain(self) -> float:
        """Controller over best static."""
        return self.controller_speedup / self.best_static_speedup

    @property
    def oracle_share(self) -> float:
        """Share of the oracle's gain over plain decoding; nan where it gains nothing."""
        gain = self.oracle_speedup - 1.0
        return (self.controller_speedup - 1.0) / gain if gain > 0 else float("nan")


def judge(
    levels: Sequence[LevelData],
    controller: Controller,
    static_action: Action,
    own_statics: Sequence[Action],
    w_max: int,
    seed: int,
) -> list[LevelSummary]:
    """Replays everything on the validation prompts, and says what the controller is to play at a compression level.

    That is its step policy where it is faster than the static action over the prompts of all temperatures together;
    else one action for all of them.

    Args:
        levels: Those of one compression level, one for each sampling temperature.
        controller: One that plays its step policy at this compression level.
        static_action: Fastest on the training prompts of all temperatures together.
        own_statics: Fastest on those of each level.
    """
    num_layers = controller.config.num_layers
    annealed = {"annealed": AnnealedConfidence(controller.config.alpha)}

    def static(data: LevelData, action: Action) -> ReplayResult:
        return replay_static(data.validation, action.decision(annealed), data.costs, num_layers)

    to_beat = _speed([static(data, static_action) for data in levels])
    learned_action = best_learned_action(levels[0], controller)
    adaptive = [_play(data, controller, None) for data in levels]
    learned = [_play(data, controller, learned_action) for data in levels]
    played, played_action = adaptive, None
    if not _speed([result for result, _ in adaptive]) > to_beat:
        if _speed([result for result, _ in learned]) > to_beat:
            played, played_action = learned, learned_action
        else:
            played, played_action = [_play(data, controller, static_action) for data in levels], static_action
    summaries = []
    for index, (data, own) in enumerate(zip(levels, own_statics, strict=True)):
        plain, best = replay_static(data.validation, PLAIN, data.costs, num_layers), static(data, own)
        (result, num_paused), limit = played[index], oracle(data.validation, data.costs, num_layers, w_max)
        low, high = bootstrap_ratio(best.seconds, result.seconds, seed)
        summaries.append(
            LevelSummary(
                name=data.name,
                compression=data.compression,
                sampling_temperature=data.sampling_temperature,
                num_prompts=len(data.validation),
                num_tokens=int(plain.num_tokens.sum()),
                plain_tokens_per_second=plain.tokens_per_second,
                best_static=own.name,
                best_static_speedup=best.speedup_over(plain),
                best_static_learned=learned_action.name,
                best_static_learned_speedup=learned[index][0].speedup_over(plain),
                step_policy_speedup=adaptive[index][0].speedup_over(plain),
                controller_speedup=result.speedup_over(plain),
                oracle_speedup=limit.speedup_over(plain),
                gain_low=low,
                gain_high=high,
                tokens_per_step=result.tokens_per_step,
                acceptance_rate=result.acceptance_rate,
                paused_share=num_paused / max(1, int(result.num_steps.sum())),
                played_action=played_action,
            )
        )
    return summaries


def _speed(results: Sequence[ReplayResult]) -> float:
    """Tokens per second of some replays together."""
    return float(sum(each.num_tokens.sum() for each in results) / sum(each.seconds.sum() for each in results))


def best_learned_action(data: LevelData, controller: Controller) -> Action:
    """The one action of the grid that the step policy expects most of, played at every step of its sample."""
    sample = controller.sample
    emitted, seconds = controller.step_policy.table(
        sample.features, sample.context_lengths, data.costs, controller.config.num_layers
    )
    speeds = (sample.weights @ emitted) / (sample.weights @ seconds)
    return controller.config.actions[int(speeds.argmax())]


def _play(data: LevelData, controller: Controller, action: Action | None) -> tuple[ReplayResult, int]:
    """The controller on the validation prompts, with one action at every step if given; and its paused steps."""
    static_actions = {} if action is None else {data.compression: action}
    player = replace(controller, config=replace(controller.config, static_actions=static_actions))
    policy = player.policy(data.costs, data.compression)
    result = replay(data.validation, policy, data.costs, controller.config.num_layers, data.compression)
    return result, policy.guard.num_paused_steps if policy.guard is not None else 0
