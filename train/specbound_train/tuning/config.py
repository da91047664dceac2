"""The config of `specbound tune`. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass

from specbound.exits.option import ExitsOption
from specbound_controller.errors import require_at_least


@dataclass(frozen=True, slots=True)
class TuneConfig(ExitsOption):
    """Chooses the constants of every policy of the literature on a log that specbound profile wrote, each with the same
    budget as the search for the best static action."""

    log: str
    """Folder of the log; its prompts are the training prompts."""
    out: str
    """File for the settings, JSON; specbound replay and evaluate read it."""
    costs: str = "log"
    """What work costs: log (the log's own table), auto (the log's where it is from this machine, else one that was
    measured here before, else one measured now, about 30 s), or a costs.json."""
    seed: int = 0
    """Seed of the rows and the weights of the fits."""

    def __post_init__(self) -> None:
        require_at_least(0, seed=self.seed)
