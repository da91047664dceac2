"""A server from its config: opens the port, loads the model, serves until it is told to stop. Knows no command line."""

import math
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn

from specbound.generation.generate import prepare
from specbound.serve.app import build_app
from specbound.serve.config import ServeConfig
from specbound.serve.loaded import service_of
from specbound.serve.service import Service
from specbound_controller.errors import InputError, MissingExtraError
from specbound_controller.text_files import read_text

KEEP_ALIVE_SECONDS = 30
"""Of a connection without a request."""
BACKLOG = 256


def serve(config: ServeConfig, say: Callable[[str], None]) -> None:
    """Serves until a signal ends it. say: gets a line when clients can come.

    Raises:
        InputError: what `generate` refuses; a key that is none; a port that is taken; no room for so many replicas.
    """
    api_key = key_of(config)
    listener = bound(config.host, config.port)
    host, port = listener.getsockname()[:2]
    with listener:
        if config.engine == "ray":
            listener.close()  # Ray's own process listens
            serve_on_ray(config, api_key, host, port, lambda: say_where(config, host, port, say))
            return
        prepared = prepare(config.generation())
        server = server_of(service_of(config, prepared, api_key))
        listener.listen(BACKLOG)  # before anybody is told
        say(prepared.costs or "plain decoding")
        say_where(config, host, port, say)
        server.run(sockets=[listener])


def serve_on_ray(config: ServeConfig, api_key: str | None, host: str, port: int, say: Callable[[], None]) -> None:
    try:
        from specbound.serve.on_ray import serve_replicas
    except ImportError:
        raise MissingExtraError("engine ray", "ray") from None
    serve_replicas(config, api_key, host, port, say)


def say_where(config: ServeConfig, host: str, port: int, say: Callable[[str], None]) -> None:
    say(f"serving {config.name} on http://{f'[{host}]' if ':' in host else host}:{port}/v1")
    if config.api_key is None and config.api_key_file is None and not is_loopback(host):
        say(f"anybody who reaches {host} can use it: --api-key-file asks for a key")


def key_of(config: ServeConfig) -> str | None:
    """The key that clients must send; None where anybody may come."""
    if config.api_key_file is None:
        return config.api_key
    lines = read_text(Path(config.api_key_file).expanduser()).splitlines()
    if not lines or not lines[0].strip():
        raise InputError(f"api_key_file must hold a key in its first line, got none ({config.api_key_file})")
    return lines[0].strip()


def bound(host: str, port: int) -> socket.socket:
    """The port, taken before a model is loaded in vain."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise InputError(f"host and port must be free to listen on, got {host}:{port}: {error.strerror}") from error
    return listener


def is_loopback(host: str) -> bool:
    return host.startswith("127.") or host == "::1"


def server_of(service: Service) -> uvicorn.Server:
    """The HTTP server; it logs no requests."""
    return uvicorn.Server(
        uvicorn.Config(
            build_app(service),
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=math.ceil(service.drain_seconds),
        )
    )
