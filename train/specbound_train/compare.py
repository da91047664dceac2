"""Judges a controller by replay: plain decoding, best static setting, controller and oracle on the same prompts."""

from dataclasses import dataclass, replace

from specbound_controller.actions import Action
from specbound_controller.controller import Controller
from specbound_controller.policy import AnnealedConfidence
from specbound_profiling.bootstrap import bootstrap_ratio
from specbound_profiling.oracle import oracle
from specbound_profiling.replay import PLAIN, replay, replay_static
from specbound_profiling.replay_result import ReplayResult
from specbound_train.data import LevelData


@dataclass(frozen=True, slots=True)
class LevelSummary:
    """Replayed speeds at one compression level on the validation prompts; modelled, prefill left out."""

    compression: str
    num_prompts: int
    """Validation prompts."""
    num_tokens: int
    """Tokens they emit in steps."""
    plain_tokens_per_second: float
    best_static: str
    """The static setting that was fastest on the training prompts."""
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
    """The action that the controller plays at every step, where its step policy was not faster than the best static
    setting; else None."""

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


def judge(data: LevelData, controller: Controller, static_action: Action, w_max: int, seed: int) -> LevelSummary:
    """Replays everything on the validation prompts, and says what the controller is to play.

    controller: one that plays its step policy at this level.
    """
    num_layers = controller.config.num_layers
    plain = replay_static(data.validation, PLAIN, data.costs, num_layers)
    annealed = {"annealed": AnnealedConfidence(controller.config.alpha)}
    static = replay_static(data.validation, static_action.decision(annealed), data.costs, num_layers)
    learned_action = best_learned_action(data, controller)
    adaptive, num_paused = _play(data, controller, None)
    learned, learned_paused = _play(data, controller, learned_action)
    limit = oracle(data.validation, data.costs, num_layers, w_max)

    played, played_action = adaptive, None
    if not adaptive.tokens_per_second > static.tokens_per_second:
        if learned.tokens_per_second > static.tokens_per_second:
            played, played_action, num_paused = learned, learned_action, learned_paused
        else:
            played_action = static_action
            played, num_paused = _play(data, controller, static_action)
    low, high = bootstrap_ratio(static.seconds, played.seconds, seed)
    return LevelSummary(
        compression=data.compression,
        num_prompts=len(data.validation),
        num_tokens=int(plain.num_tokens.sum()),
        plain_tokens_per_second=plain.tokens_per_second,
        best_static=static_action.name,
        best_static_speedup=static.speedup_over(plain),
        best_static_learned=learned_action.name,
        best_static_learned_speedup=learned.speedup_over(plain),
        step_policy_speedup=adaptive.speedup_over(plain),
        controller_speedup=played.speedup_over(plain),
        oracle_speedup=limit.speedup_over(plain),
        gain_low=low,
        gain_high=high,
        tokens_per_step=played.tokens_per_step,
        acceptance_rate=played.acceptance_rate,
        paused_share=num_paused / max(1, int(played.num_steps.sum())),
        played_action=played_action,
    )


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
