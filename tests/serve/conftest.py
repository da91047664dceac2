"""A server of a tiny model whose drafts are often right."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from specbound.decoding.batch_guard import BatchGuard
from specbound.generation.generate import prepare
from specbound.serve.config import ServeConfig
from specbound_controller.policy import StaticPolicy
from tests.serve.running_server import Running


@pytest.fixture(scope="module")
def running(chat_model_dir: Path) -> Iterator[Running]:
    config = ServeConfig(
        model=str(chat_model_dir), policy="plain", served_name="tiny", max_new_tokens=480, max_body_kib=8, max_batch=4
    )
    prepared = prepare(config.generation())
    prepared.loaded.model.double()  # so that no rounding can make a difference
    prepared.decoder.policy = StaticPolicy(exit_layers=(0, 2), threshold=0.02, w_max=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchGuard, "must_be_plain", lambda guard, num_rows: False)  # drafts of a tiny model never pay
        server = Running(prepared, config)
        yield server
        server.stop()
