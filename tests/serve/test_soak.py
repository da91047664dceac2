"""Many requests leave nothing behind; `tests/serve/soak.py` sends a thousand by hand."""

import gc

import torch

from tests.serve.running_server import Running, asks, until
from tests.serve.soak import DROPPED_EVERY, send_all

NUM_REQUESTS = 16
TABLES = 2**18
"""Bytes that tables of positions may grow by; a dropped answer would hold twice that of keys and values."""


def tensors_held(running: Running) -> tuple[int, int]:
    """How many tensors there are, and their bytes, once the server is idle and keeps no prefix."""
    engine = running.service.engine
    until(lambda: not engine._answers and not engine._waiting and running.figure("num_requests_running") == 0)
    assert 0 < engine._prefixes.num_bytes <= 2**28
    engine._prefixes.clear()
    running.prepared.decoder.adapter._masks.clear()  # one for each number of rows and tokens that has come
    gc.collect()
    storages = {
        each.untyped_storage().data_ptr(): each.untyped_storage().nbytes()
        for each in gc.get_objects()
        if type(each) in (torch.Tensor, torch.nn.Parameter)  # others that a test before has left may have no memory
    }
    return len(storages), sum(storages.values())


def test_requests_that_are_answered_or_dropped_leave_no_tensor(running: Running) -> None:
    client, all_asks = running.client(), asks(NUM_REQUESTS)
    send_all(client, all_asks)  # tables of positions and the like are made
    before = tensors_held(running)
    aborted = running.figure("request_success_total", finished_reason="abort")
    num_dropped = len(range(0, NUM_REQUESTS, DROPPED_EVERY))
    assert send_all(client, all_asks) == {"dropped": num_dropped, "answered": NUM_REQUESTS - num_dropped}
    after = tensors_held(running)
    assert running.figure("request_success_total", finished_reason="abort") > aborted
    assert after[0] <= before[0] + 4 and after[1] <= before[1] + TABLES
