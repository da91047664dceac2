"""The same application in several processes: Ray Serve starts replicas, hands each request to one of them, and starts
those again that have died. Knows no model; keeps no queue and no balance of its own.
"""

import contextlib
import logging
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import torch
import transformers
from fastapi import FastAPI
from ray import serve
from ray.serve.config import HTTPOptions

from specbound.generation.generate import prepare
from specbound.serve.app import build_app
from specbound.serve.config import ServeConfig
from specbound.serve.loaded import service_of
from specbound_controller.errors import InputError

APPLICATION = "specbound"
NO_PATHS = ("demo", "auto", "plain", "none")
"""Names that are never folders."""
PATHS = ("model", "controller", "policy", "own_text", "costs", "exits")
"""Settings that may name a folder or a file."""
HEALTH_SECONDS = 5.0


class Replica:
    """One model with its engine, in a process of its own."""

    def __init__(self, config: ServeConfig, api_key: str | None) -> None:
        torch.set_num_threads(config.threads)
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self._service = service_of(config, prepare(config.generation()), api_key)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Ray once the model is there."""
        return build_app(self._service)

    def check_health(self) -> None:
        """Called by Ray, which replaces a replica where this raises."""
        if not self._service.engine.is_alive:
            raise RuntimeError("the engine has stopped")


def serve_replicas(config: ServeConfig, api_key: str | None, host: str, port: int, say: Callable[[], None]) -> None:
    """Serves until a signal ends it. say: called when clients can come

    Raises:
        InputError: the cluster has no room for so many replicas, or Ray Serve runs on it already; what a replica says
            of the config.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    with cluster():
        require_no_other()
        resources = wanted(config)
        require_room(num_replicas(config), resources)
        serve.start(http_options=HTTPOptions(host=host, port=port), logging_config={"enable_access_log": False})
        try:
            deploy(named_from_anywhere(config), api_key, resources)
            say()
            wait_for_signal()
        finally:
            serve.shutdown()


def deploy(config: ServeConfig, api_key: str | None, resources: dict[str, float]) -> None:
    """Starts the replicas; returns when all are there."""
    deployment: Any = serve.deployment(
        serve.ingress()(Replica),
        name=APPLICATION,
        num_replicas=num_replicas(config),
        max_ongoing_requests=2 * (config.max_batch + config.max_queue),  # the engine's own queue refuses before that
        graceful_shutdown_timeout_s=config.drain_seconds,
        health_check_period_s=HEALTH_SECONDS,
        ray_actor_options={"num_cpus": resources["CPU"], "num_gpus": resources.get("GPU", 0)},
    )
    try:
        serve.run(deployment.bind(config, api_key), name=APPLICATION, route_prefix="/")
    except RuntimeError as error:
        status = serve.status().applications.get(APPLICATION)
        told = " ".join(each.message for each in status.deployments.values()) if status is not None else str(error)
        reason = re.search(r"InputError: (.+)", told)
        if reason is None:
            raise
        raise InputError(reason[1].strip()) from None


@contextlib.contextmanager
def cluster() -> Iterator[None]:
    """The cluster of RAY_ADDRESS or of `ray start` on this machine; without one, this machine's own."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing goes out that the user did not ask for
    ray.init(logging_level="error", log_to_driver=False, include_dashboard=False)
    try:
        yield
    finally:
        ray.shutdown()


def require_no_other() -> None:
    """Raises InputError where Ray Serve runs on the cluster already: it would keep its address, and end with ours."""
    if serve.status().proxies:
        raise InputError("engine ray starts Ray Serve itself, got a cluster where it runs: `serve shutdown` ends it")


def wanted(config: ServeConfig) -> dict[str, float]:
    """What each replica takes of the cluster: its threads, and a GPU where the cluster has any."""
    needs: dict[str, float] = {"CPU": config.threads}
    return needs | ({"GPU": 1} if ray.cluster_resources().get("GPU", 0) else {})


def num_replicas(config: ServeConfig) -> int:
    return config.replicas if config.replicas is not None else 1


def require_room(number: int, resources: dict[str, float]) -> None:
    """Raises InputError where replicas would wait for ever for a place."""
    there = ray.cluster_resources()
    room = min(int(there.get(name, 0) // amount) for name, amount in resources.items())
    if number > room:
        each = " and ".join(f"{amount:g} {name}" for name, amount in resources.items())
        has = " and ".join(f"{there.get(name, 0):g} {name}" for name in resources)
        raise InputError(f"replicas must be <= {room} where each takes {each} of the cluster's {has}, got {number}")


def named_from_anywhere(config: ServeConfig) -> ServeConfig:
    """Folders by their whole paths: replicas start elsewhere."""
    given = {name: getattr(config, name) for name in PATHS}
    whole: dict[str, Any] = {name: _whole(value) for name, value in given.items() if value is not None}
    return replace(config, **whole)


def _whole(name: str) -> str:
    path = Path(name).expanduser()
    return str(path.resolve()) if name not in NO_PATHS and path.exists() else name


def wait_for_signal() -> None:
    """Returns at Ctrl-C or SIGTERM."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()
