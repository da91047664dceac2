"""A service from a config and a loaded model: the engine, with the config's limits. Knows no HTTP."""

import torch

from specbound.decoding.model.free_memory import free_bytes
from specbound.generation.generate import Prepared
from specbound.serve.config import ServeConfig
from specbound.serve.engine import Engine
from specbound.serve.metrics import Metrics
from specbound.serve.room import MIB
from specbound.serve.service import Limits, Service

KIB = 2**10
FREE_SHARE = 0.5
"""Of free memory, that keys and values may take where no bound is given; prompts need some beside it while they run."""
MEMORY_UNKNOWN = 4 * 2**30
"""Bytes that are taken for free where the system does not say."""


def service_of(config: ServeConfig, prepared: Prepared, api_key: str | None) -> Service:
    """The engine of a loaded model, with the config's limits. Raises InputError where cache_mib holds no answer."""
    metrics = Metrics(config.name)
    engine = Engine(
        prepared.decoder,
        prepared.loaded.tokenizer,
        metrics,
        cache_bytes_of(config, prepared.decoder.adapter.device),
        max_batch=config.max_batch,
        max_queue=config.max_queue,
        max_seconds=config.max_seconds,
        prefix_cache_bytes=config.prefix_cache_mib * MIB,
        threads=config.threads,
    )
    limits = Limits(
        config.max_prompt_tokens,
        config.max_new_tokens,
        config.max_body_kib * KIB,
        max_choices=config.max_batch + config.max_queue,
    )
    positions = prepared.decoder.adapter.max_positions
    return Service(
        prepared.loaded,
        config.name,
        engine,
        metrics,
        limits,
        engine.room.most_tokens if positions is None else min(positions, engine.room.most_tokens),
        api_key,
        config.drain_seconds,
    )


def cache_bytes_of(config: ServeConfig, device: torch.device) -> int:
    """The bound of memory for keys and values."""
    if config.cache_mib is not None:
        return config.cache_mib * MIB
    free = free_bytes(device)
    return int(FREE_SHARE * (MEMORY_UNKNOWN if free is None else free))
