"""What a caller asked for: the sequences of one call, with their limits, processors, criteria and seeds.

Knows nothing of how it was asked (`arguments`, `prepared`) nor of how tokens are computed.
"""

import math
from dataclasses import dataclass, field

from torch import Tensor
from transformers import LogitsProcessorList, StoppingCriteriaList
from transformers.cache_utils import Cache
from transformers.generation.logits_process import TemperatureLogitsWarper

# R rows (sequences), T tokens of the longest prompt


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to generate."""

    prompt: tuple[int, ...]
    """Token ids without padding, at least one."""
    max_new_tokens: int
    """Most tokens to generate, >= 1."""
    eos_token_ids: frozenset[int] = frozenset()
    """Tokens that end the output."""
    padding: tuple[int, ...] = ()
    """Padding before the prompt that processors and criteria see, as in a padded batch of transformers."""
    processors: LogitsProcessorList = field(default_factory=LogitsProcessorList)
    """Called once for every new token, as plain decoding calls them."""
    criteria: StoppingCriteriaList = field(default_factory=StoppingCriteriaList)
    """Stopping criteria besides length and end tokens, called after every new token."""
    do_sample: bool = False
    seed: int = 0
    """Seed of the sampling noise."""
    output_scores: bool = False
    output_logits: bool = False

    @property
    def sampling_temperature(self) -> float:
        """What divides the logits before sampling; 0 under greedy decoding."""
        if not self.do_sample:
            return 0.0
        return math.prod(p.temperature for p in self.processors if isinstance(p, TemperatureLogitsWarper))


@dataclass(frozen=True, slots=True)
class Batch:
    """The sequences of one call, and what to return."""

    requests: tuple[Request, ...]
    input_ids: Tensor
    """(R, T) int64: the prompts with their padding, as the output begins."""
    cache: Cache | None
    """A cache to continue from, the caller's own or one of this decoder's; None begins anew."""
    padding_token: int
    return_dict: bool
    returns_cache: bool = True
    """Whether the output holds a cache."""
    processors: LogitsProcessorList = field(default_factory=LogitsProcessorList)
    """Those that want to see all rows at once; none where every row has its own in its request."""
    criteria: StoppingCriteriaList = field(default_factory=StoppingCriteriaList)
    """Of several rows: criteria besides length and end tokens, which are called with all rows at once."""
    has_end_token: bool = False
    """Whether rows that have ended are filled with padding; otherwise they go on to the end of the last one."""

    @property
    def is_joint(self) -> bool:
        """Whether rows depend on one another."""
        return bool(self.processors or self.criteria)
