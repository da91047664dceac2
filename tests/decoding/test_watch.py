"""The watch over a policy's drafts, on made-up steps."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from specbound.decoding.watch import WATCHED_DRAFTS, WATCHED_TOKENS, AcceptanceWatch
from specbound_controller.policy import StaticPolicy


def test_a_policy_that_hardly_drafts_is_named_once_it_has_drafted_enough(caplog: pytest.LogCaptureFixture) -> None:
    watch = AcceptanceWatch()
    watch.start(StaticPolicy((1,)))
    step: Any = SimpleNamespace(num_emitted=WATCHED_TOKENS, num_drafted=1, num_accepted=0)
    with caplog.at_level(logging.WARNING, "specbound.decoding.watch"):
        for _ in range(WATCHED_DRAFTS - 1):
            watch.observe(step)
        assert not caplog.records
        watch.observe(step)
        watch.observe(step)
    (record,) = caplog.records
    assert f"none of its {WATCHED_DRAFTS} draft tokens" in record.getMessage()
