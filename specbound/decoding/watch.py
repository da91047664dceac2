"""Says once that a policy's drafts are never accepted. Knows no model."""

import logging

from specbound.decoding.loop import OnStep
from specbound_controller.policy import Policy
from specbound_controller.records import StepRecord

WATCHED_TOKENS = 64
"""New tokens, over all calls, after which a policy without an accepted draft is named."""
WATCHED_DRAFTS = 16
"""Draft tokens that it must have issued by then: one that hardly drafts costs nothing."""

logger = logging.getLogger(__name__)


class AcceptanceWatch:
    """Counts what a decoder's policy drafts until it is clear whether anything is accepted."""

    def __init__(self) -> None:
        self._policy: Policy | None = None
        self._is_settled = False

    def start(self, policy: Policy) -> None:
        """Begins anew with another policy; the same one goes on."""
        if policy is self._policy:
            return
        self._policy, self._is_settled = policy, False
        self._num_tokens = self._num_drafted = 0

    def watching(self, on_step: OnStep | None) -> OnStep | None:
        """What a loop is to call after every step: the caller's own function, and this watch while it is needed."""
        if self._is_settled:
            return on_step

        def both(record: StepRecord, row: int) -> None:
            self.observe(record)
            if on_step is not None:
                on_step(record, row)

        return both

    def observe(self, record: StepRecord) -> None:
        """Counts a step."""
        if self._is_settled:
            return
        self._num_tokens += record.num_emitted
        self._num_drafted += record.num_drafted
        if record.num_accepted:
            self._is_settled = True
        elif self._num_tokens >= WATCHED_TOKENS and not 0 < self._num_drafted < WATCHED_DRAFTS:
            self._is_settled = True
            if self._num_drafted:
                logger.warning(
                    "policy %s: none of its %d draft tokens was accepted in %d tokens, so it only costs time here; "
                    "specbound fit finds what pays for this model",
                    type(self._policy).__name__,
                    self._num_drafted,
                    self._num_tokens,
                )
