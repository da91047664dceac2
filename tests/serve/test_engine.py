"""The engine's queue, its end, and what a broken step does to the answers around it."""

import queue
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.running import ROOM_FOR_DRAFTS, RunningBatch
from specbound.generation.generate import prepare
from specbound.models.loading import LoadedModel
from specbound.serve.config import ServeConfig
from specbound.serve.engine import Engine
from specbound.serve.errors import ApiError
from specbound.serve.jobs import End, Event, Failure, Job, Piece
from specbound.serve.metrics import Metrics
from specbound_controller.errors import InputError

ROOMY = 2**30


class Gate:
    """Steps wait here while it is closed, and fail where that is asked for."""

    def __init__(self) -> None:
        self.opened, self.reached = threading.Event(), threading.Event()
        self.error: Exception | None = None

    def step(self, own: Callable[[], Any]) -> Any:
        self.reached.set()
        assert self.opened.wait(60)
        error, self.error = self.error, None
        if error is not None:
            raise error
        return own()


@pytest.fixture(scope="module")
def loaded(tiny_model_dir: Path) -> LoadedModel:
    return prepare(ServeConfig(model=str(tiny_model_dir), policy="plain").generation()).loaded


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate, own = Gate(), RunningBatch.step
    monkeypatch.setattr(RunningBatch, "step", lambda batch: gate.step(lambda: own(batch)))
    return gate


Make = Callable[..., Engine]


@pytest.fixture
def make(loaded: LoadedModel, gate: Gate) -> Iterator[Make]:
    engines = []

    def start(**settings: Any) -> Engine:
        decoder = SpecBoundDecoder(loaded.model)
        metrics = Metrics("m")
        engine = Engine(
            decoder, loaded.tokenizer, metrics, **{"cache_bytes": ROOMY, "max_batch": 2, "max_queue": 2, **settings}
        )
        engine.start()
        engines.append(engine)
        return engine

    yield start
    gate.opened.set()
    for engine in engines:
        engine.close(0)


class Owner:
    """Whoever waits for one answer."""

    def __init__(self, count: int = 6, prompt: tuple[int, ...] = (5, 6, 7)) -> None:
        self.events: queue.Queue[Event] = queue.Queue()
        arguments = {"max_new_tokens": count, "eos_token_id": None}
        self.job = Job(prompt, arguments, (), self.events.put)

    def last(self) -> End | Failure:
        while True:
            event = self.events.get(timeout=60)
            if not isinstance(event, Piece):
                return event


def test_a_full_queue_refuses_all_or_none_and_says_when_to_come_back(make: Make, gate: Gate) -> None:
    engine, owners = make(), [Owner() for _ in range(3)]
    engine.submit([owner.job for owner in owners])
    assert gate.reached.wait(60)
    with pytest.raises(ApiError) as caught:
        engine.submit([Owner().job, Owner().job])
    assert caught.value.status == 503 and caught.value.headers["Retry-After"]
    engine.submit([(last := Owner()).job])
    gate.opened.set()
    for owner in [*owners, last]:
        end = owner.last()
        assert isinstance(end, End) and (end.reason, end.num_tokens) == ("length", 6)


def test_a_broken_step_loses_those_that_run_and_no_other(make: Make, gate: Gate) -> None:
    engine, owners = make(), [Owner() for _ in range(4)]
    gate.error = torch.OutOfMemoryError("no memory")
    engine.submit([owner.job for owner in owners[:1]])
    assert gate.reached.wait(60)
    engine.submit([owner.job for owner in owners[1:]])
    gate.opened.set()
    first = owners[0].last()
    assert isinstance(first, Failure) and first.error.status == 500
    assert all(isinstance(owner.last(), End) for owner in owners[1:])


def test_a_prompt_that_fails_fails_alone(make: Make, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    gate.opened.set()
    engine, own = make(), RunningBatch.join

    def join(batch: RunningBatch, request: Any, past: Any = None) -> Any:
        if request.max_new_tokens == 7:
            raise MemoryError
        return own(batch, request, past)

    monkeypatch.setattr(RunningBatch, "join", join)
    owners = [Owner(), Owner(7), Owner()]
    engine.submit([owner.job for owner in owners])
    first, second, third = (owner.last() for owner in owners)
    assert isinstance(first, End) and isinstance(third, End)
    assert isinstance(second, Failure) and second.error.status == 503


def test_a_wrong_argument_is_the_clients_mistake(make: Make, gate: Gate) -> None:
    gate.opened.set()
    engine, owner = make(), Owner(10_000)
    engine.submit([owner.job])
    end = owner.last()
    assert isinstance(end, Failure) and end.error.status == 400 and "10000" in end.error.message


def test_who_went_away_in_the_queue_is_not_decoded(make: Make, gate: Gate) -> None:
    engine, owners = make(max_batch=1), [Owner() for _ in range(2)]
    engine.submit([owner.job for owner in owners])
    assert gate.reached.wait(60)
    engine.cancel([owners[1].job])
    gate.opened.set()
    assert isinstance(owners[0].last(), End)
    engine.close(60)
    assert owners[1].events.empty()


def test_what_takes_too_long_ends_with_what_there_is(make: Make, gate: Gate) -> None:
    engine, owner = make(max_seconds=0.3), Owner(400)
    engine.submit([owner.job])
    assert gate.reached.wait(60)
    threading.Timer(0.4, gate.opened.set).start()
    end = owner.last()
    assert isinstance(end, End) and end.reason == "length" and end.num_tokens < 400


def test_closing_finishes_what_runs_and_takes_nothing_more(make: Make, gate: Gate) -> None:
    engine, owner = make(), Owner()
    engine.submit([owner.job])
    assert gate.reached.wait(60)
    closing = threading.Thread(target=engine.close, args=(60,))
    closing.start()
    while engine.is_alive:
        pass
    with pytest.raises(ApiError):
        engine.submit([Owner().job])
    gate.opened.set()
    closing.join(60)
    assert isinstance(owner.last(), End)


def test_closing_refuses_what_is_left_after_its_time(make: Make, gate: Gate) -> None:
    engine, owners = make(max_batch=1), [Owner(400), Owner()]
    engine.submit([owner.job for owner in owners])
    assert gate.reached.wait(60)
    threading.Timer(0.3, gate.opened.set).start()
    engine.close(0)
    for owner in owners:
        end = owner.last()
        assert isinstance(end, Failure) and end.error.status == 503


BYTES_OF_TOKEN = 4 * 2 * 2 * 8 * 4
"""Layers, keys and values, heads, their width, bytes of a number."""


def sized(*most_tokens: int) -> int:
    """Bytes of a batch of answers of so many tokens each, as they share buffers."""
    return len(most_tokens) * (max(most_tokens) + ROOM_FOR_DRAFTS) * BYTES_OF_TOKEN


def test_what_does_not_fit_beside_those_that_run_waits_for_them(
    make: Make, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.opened.set()
    nums_of_rows, own = [], RunningBatch.step
    monkeypatch.setattr(RunningBatch, "step", lambda batch: nums_of_rows.append(len(batch.rows)) or own(batch))
    engine = make(max_batch=4, cache_bytes=sized(50, 50, 50) - 1)
    owners = [Owner(count) for count in (47, 47, 47, 9)]
    engine.submit([owner.job for owner in owners])
    ends = [owner.last() for owner in owners]
    assert [end.num_tokens for end in ends if isinstance(end, End)] == [47, 47, 47, 9]
    assert max(nums_of_rows) == 2


def test_memory_stays_within_its_bound_whatever_comes(make: Make, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of many lengths join and leave, prefixes are kept and continued; no step finds more than may be held."""
    gate.opened.set()
    monkeypatch.setattr("specbound.decoding.loop.NEW_TOKENS_CAPACITY", 4)  # so that buffers have to grow
    most, seen = sized(300, 300), []
    own = RunningBatch.step

    def step(batch: RunningBatch) -> Any:
        found = own(batch)
        seen.append((len(batch.rows), batch.num_bytes, batch.num_bytes + engine._prefixes.num_bytes))
        return found

    monkeypatch.setattr(RunningBatch, "step", step)
    engine = make(max_batch=6, max_queue=99, cache_bytes=most, prefix_cache_bytes=most)
    shuffled = random.Random(0)
    prompts = [tuple(shuffled.choices(range(4, 30), k=shuffled.randrange(1, 90))) for _ in range(12)]
    owners = [Owner(shuffled.choice([3, 20, 200]), shuffled.choice(prompts)) for _ in range(30)]
    engine.submit([owner.job for owner in owners])
    assert all(isinstance(owner.last(), End) for owner in owners)
    assert max(num_bytes for _, _, num_bytes in seen) <= most
    assert max(num_rows for num_rows, _, _ in seen) > 2 and max(num_bytes for _, num_bytes, _ in seen) > most / 2
    assert engine._metrics.prefix_hits._value.get() > 0


def test_a_bound_that_holds_no_answer_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(InputError, match="cache_mib must be at least"):
        Engine(SpecBoundDecoder(loaded.model), loaded.tokenizer, Metrics("m"), cache_bytes=60 * BYTES_OF_TOKEN)
