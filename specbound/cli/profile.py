"""`specbound profile`: parse, profile, print."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from specbound.cli.edge import hand_over, set_up
from specbound.cli.parsing import parse_config
from specbound_controller.errors import require_at_least
from specbound_profiling.recording.config import ProfileConfig

if TYPE_CHECKING:
    from specbound_profiling.recording.profile import ProfileSummary

FEW_PROMPTS = 24
"""Prompts of a log below which a controller is trained on too little."""
WORTH_IT = 1.1
"""Oracle speedup below which nothing is worth training; `replay.verdict` says the same."""


@dataclass(frozen=True, slots=True)
class ProfileCommand(ProfileConfig):
    """Records how every exit layer agrees with the full model, measures what work costs here, and gives a verdict."""

    threads: int = 1
    """CPU threads; the cost table holds for this number of them."""
    json: str | None = None
    """File for the verdict as JSON; - is standard output, where the text is left out."""

    def __post_init__(self) -> None:
        ProfileConfig.__post_init__(self)
        require_at_least(1, threads=self.threads)


def next_step(summary: "ProfileSummary", config: ProfileConfig) -> str:
    """What to do with the log: one line."""
    verdict = summary.verdicts[0]
    if verdict.num_prompts < FEW_PROMPTS:
        return (
            f"next: {verdict.num_prompts} prompts are too few to train on; profile at least {FEW_PROMPTS}, with "
            f"--num-prompts, into another folder (specbound fit --model {config.model} --out DIR chooses by itself)"
        )
    if verdict.oracle.value < WORTH_IT:
        return (
            f"next: nothing to train here; specbound generate --model {config.model} --policy free_tree --compare "
            "shows whether drafts that cost no layer pay"
        )
    return (
        f"next: specbound train-controller --log {summary.out} --out CONTROLLER; or specbound replay --log "
        f"{summary.out}, which says what fixed settings would do"
    )


def run(argv: Sequence[str]) -> None:
    config = parse_config(ProfileCommand, "profile", argv)
    set_up(config)
    from specbound.pricing.local import measured_once
    from specbound.results.report import logged_model
    from specbound.results.rows import modelled_rows
    from specbound_profiling.recording.profile import profile

    summary = profile(config, measured_once)
    rows = []
    for verdict in summary.verdicts:
        speedups = {"best_static": verdict.static.value, "oracle": verdict.oracle.value}
        num_tokens = verdict.num_positions - verdict.num_prompts  # prefill yields the first token of each
        plain = verdict.plain_tokens_per_second
        rows += modelled_rows(verdict.compression, verdict.num_prompts, num_tokens, plain, speedups)
    verdicts = [asdict(verdict) for verdict in summary.verdicts]
    hand_over(
        config.json,
        lambda: print(f"{summary}\n{next_step(summary, config)}"),
        rows,
        logged_model(summary.out),
        verdicts=verdicts,
    )
