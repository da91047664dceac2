"""What plays where nobody chose: a guarded tree of the free sources, with what it needs made here once and kept."""

import logging
from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedModel

from specbound.models.fingerprint import model_fingerprint
from specbound.models.loading import LoadedModel
from specbound.pricing.local import local_costs
from specbound.stores.bigrams import local_bigrams
from specbound.stores.own_text import load_own_text
from specbound.stores.trees import TreeSituation, tree_policy
from specbound_controller.errors import MissingExtraError
from specbound_controller.policy import Policy
from specbound_controller.sources.earlier import EarlierText
from specbound_controller.sources.stores import Stores
from specbound_profiling.recording.config import auto_exit_layers

logger = logging.getLogger(__name__)


def auto_policy(
    model: PreTrainedModel,
    compression: str = "none",
    exactness: str = "token",
    name: str = "free_tree",
    say: Callable[[str], None] = logger.info,
    is_compiled: bool = False,
    own_text: str | None = None,
    learns: bool = False,
) -> Policy:
    """A tree policy for a model that nobody trained anything for.

    Costs of this machine (about 30 s) and the model's bigrams (a minute for a small model) are made at the first call
    for a model and kept in `~/.cache/specbound`.

    Args:
        compression: level of the model's weights.
        exactness: of the decoder that will play it.
        name: one of `TREE_POLICIES`.
        say: gets a line for each thing that is made or found.
        own_text: folder that `specbound write` left for this model: one more source, and rates counted on its text.
        learns: one more source, all text that this policy has read and written so far. Outputs are the same, but how
            fast they come depends on what was served before.

    Raises:
        MissingExtraError: costs must be measured and scipy is not installed.
        InputError: there is no such policy, or no such text of this model.

    Example:
        >>> SpecBoundDecoder(model, policy=auto_policy(model))
    """
    num_layers = model.config.num_hidden_layers
    fingerprint = model_fingerprint(model)
    text, rates = (None, {}) if own_text is None else load_own_text(Path(own_text).expanduser(), fingerprint)
    loaded = LoadedModel(model, None, type(model).__name__, compression)
    exits = auto_exit_layers(num_layers)
    found = local_costs(loaded, fingerprint, exits, exactness, None, is_compiled)
    if found is None:
        raise MissingExtraError("measuring what work costs here", "profile")
    costs, line = found
    say(line)
    stores = Stores(local_bigrams(model, say), text, EarlierText() if learns else None)
    return tree_policy(name, TreeSituation(stores, costs, num_layers, rates))
