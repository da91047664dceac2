"""Rows that join and leave a running batch: their tokens are those of the same request alone."""

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from specbound.decoding.batch_guard import BatchGuard
from specbound.decoding.decoder import SpecBoundDecoder, request_of
from specbound.decoding.loop import Row
from specbound_controller.errors import InputError
from specbound_controller.policy import StaticPolicy
from specbound_controller.records import Decision
from specbound_controller.sources.bigrams import BigramTable
from specbound_controller.sources.context import ContextSource
from specbound_controller.sources.stores import Stores
from specbound_controller.trees.plan import TreePlan
from specbound_controller.trees.policy import TreePolicy
from tests.tiny_models import tiny_llama

RATES = {"context": [0.5] * ContextSource.num_cells, "recycled": [0.4] * 8, "bigrams": [0.3] * 8}
BIGRAMS = BigramTable(np.array([[(token + step) % 50 for step in range(6)] for token in range(50)], dtype=np.int32))


class EveryOther(TreePolicy):
    """A tree, then nothing: rows of a batch do now one, now the other."""

    num_steps = 0

    def decide(self, features: np.ndarray | None) -> Decision:
        self.num_steps += 1
        return super().decide(features) if self.num_steps % 2 else Decision(w_max=0)


PLAN = TreePlan(rates=RATES, stores=Stores(BIGRAMS), max_nodes=9, max_depth=5, breadth=3)
POLICIES = {
    "plain": None,
    "chain": StaticPolicy(exit_layers=(2,), threshold=0.1, w_max=4),
    "mixed": StaticPolicy(exit_layers=(0, 1), threshold=0.1, w_max=3),
    "tree": TreePolicy(PLAN),
    "tree or nothing": EveryOther(PLAN),
    "tree with an exit or nothing": EveryOther(replace(PLAN, exit_layer=2)),
}


@pytest.fixture(autouse=True)
def always_drafting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafts of a tiny model never pay."""
    monkeypatch.setattr(BatchGuard, "must_be_plain", lambda guard, num_rows: False)


def decoder_of(name: str, dtype: torch.dtype = torch.float32, **settings: Any) -> SpecBoundDecoder:
    return SpecBoundDecoder(tiny_llama(0.3, eos_token_id=7).to(dtype), POLICIES[name], **settings)


def asks(num: int, seed: int = 0) -> list[tuple[torch.Tensor, dict[str, Any]]]:
    generator = random.Random(seed)
    found: list[tuple[torch.Tensor, dict[str, Any]]] = []
    for index in range(num):
        ids = torch.tensor([[generator.randrange(8, 50) for _ in range(generator.randrange(1, 30))]])
        arguments: dict[str, Any] = {"max_new_tokens": generator.randrange(1, 40), "do_sample": index % 2 == 1}
        if arguments["do_sample"]:
            arguments |= {"temperature": 0.8, "seed": index}
        found.append((ids, arguments))
    return found


def run_together(decoder: SpecBoundDecoder, requests: list[Any], generator: random.Random) -> list[list[int]]:
    """All of them, joining at random moments."""
    running, waiting = decoder.running(), list(enumerate(requests))
    of_row: dict[int, int] = {}
    done: dict[int, list[int]] = {}
    while waiting or running.rows:
        if waiting and len(running.rows) < 4 and (not running.rows or generator.random() < 0.4):
            index, (ids, arguments) = waiting.pop(0)
            of_row[running.join(request_of(decoder, ids, arguments)).index] = index
        if any(not row.sequence.is_finished for row in running.rows):
            settle(running, of_row, done)
            if running.rows:
                running.step()
        settle(running, of_row, done)
    return [done[index] for index in range(len(requests))]


def settle(running: Any, of_row: dict[int, int], done: dict[int, list[int]]) -> None:
    ended: list[Row] = [row for row in running.rows if row.sequence.is_finished]
    for row in ended:
        done[of_row[row.index]] = list(row.sequence.tokens)
    running.leave(ended)


@pytest.mark.parametrize("name", POLICIES)
def test_rows_that_come_and_go_write_what_they_write_alone(name: str) -> None:
    decoder, requests = decoder_of(name, torch.float64), asks(16)
    alone = [decoder.generate(ids, **arguments)[0].tolist() for ids, arguments in requests]
    assert run_together(decoder, requests, random.Random(1)) == alone


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_bitwise_rows_in_16_bits_too(dtype: torch.dtype) -> None:
    decoder, requests = decoder_of("chain", dtype, exactness="bitwise"), asks(10, seed=3)
    alone = [decoder.generate(ids, **arguments)[0].tolist() for ids, arguments in requests]
    assert run_together(decoder, requests, random.Random(2)) == alone


def test_a_copied_row_is_continued() -> None:
    decoder = decoder_of("chain", torch.float64)
    running = decoder.running()
    ids = torch.tensor([[9, 10, 11, 12]])
    rows = [
        running.join(request_of(decoder, ids, {"max_new_tokens": count, "eos_token_id": None})) for count in (9, 20)
    ]
    while not rows[0].sequence.is_finished:
        running.step()
    held = running.copy_of(rows[0])
    assert held.tokens == rows[0].sequence.tokens[:-1] and held.num_bytes > 0
    running.leave(rows)
    assert not running.rows
    more = torch.tensor([[*rows[0].sequence.tokens, 20, 21]])
    row = running.join(request_of(decoder, more, {"max_new_tokens": 12}), held)
    while not row.sequence.is_finished:
        running.step()
    assert row.sequence.tokens == decoder.generate(more, max_new_tokens=12)[0].tolist()


def test_a_row_that_cannot_be_sampled_from_fails_alone() -> None:
    decoder = decoder_of("chain", torch.float64)
    running = decoder.running()
    ids = torch.tensor([[9, 10, 11, 12]])
    good = running.join(request_of(decoder, ids, {"max_new_tokens": 20}))

    class Spoils:
        """Numbers that are none after a few calls."""

        def __init__(self) -> None:
            self.num_calls = 0

        def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            self.num_calls += 1
            return scores * torch.nan if self.num_calls > 3 else scores

    bad = running.join(
        request_of(
            decoder,
            ids,
            {"max_new_tokens": 20, "do_sample": True, "seed": 1, "logits_processor": [Spoils()], "eos_token_id": None},
        )
    )
    failed = []
    while not good.sequence.is_finished:
        for progress in running.step():
            if progress.error is not None:
                failed.append(progress.row)
                assert isinstance(progress.error, InputError) and not progress.tokens
        running.leave([row for row in running.rows if row in failed])
    assert failed == [bad]
    assert good.sequence.tokens == decoder.generate(ids, max_new_tokens=20)[0].tolist()
