"""The trained exits of a log, and its model with them: a log is read, priced and replayed with those it was recorded
with. Knows no policy."""

from specbound.exits.trained import TrainedExits, with_exits
from specbound.models.loading import LoadedModel, load_model
from specbound_controller.errors import InputError
from specbound_profiling.log.manifest import Manifest


def check_exits(manifest: Manifest, exits: str | None) -> None:
    """Raises InputError where exits are given that are not those that a log was recorded with."""
    if exits is None:
        return
    given = TrainedExits.from_pretrained(exits).name
    if given != manifest.exits:
        recorded = f"with the trained exits {manifest.exits}" if manifest.exits else "without trained exits"
        raise InputError(f"the log was recorded {recorded}, got {given} ({exits}); profile with these")


def load_logged(manifest: Manifest, compression: str, exits: str | None) -> LoadedModel:
    """The model of a log at a level, with the trained exits that were read.

    exits: where they are, as `TrainedExits.from_pretrained` takes it.

    Raises:
        InputError: they are needed and not given, or are others.
    """
    if manifest.exits and exits is None:
        raise InputError(f"the log was recorded with the trained exits {manifest.exits}: give their folder as --exits")
    check_exits(manifest, exits)
    return with_exits(load_model(manifest.model, compression), exits)
