"""`transformers serve --trust-remote-code` on a model folder that holds our `generate`: which requests it decodes."""

import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from transformers.utils import logging

from specbound.cli.main import main
from specbound.decoding.decoder import SpecBoundDecoder
from specbound_controller.policy import StaticPolicy
from tests.serve.running_server import until

serve = pytest.importorskip("transformers.cli.serve")


class Served:
    """A server of transformers in this process."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.folder = str(folder)
        self._serve = serve.Serve(
            force_model=self.folder, host="127.0.0.1", port=port, device="cpu", non_blocking=True, **settings
        )
        self.client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=20, timeout=120)

    def close(self) -> None:
        self._serve.kill_server()

    def text(self, kind: str, is_stream: bool) -> str:
        """The answer of one of the endpoints, greedy."""
        client, settings = self.client, {"model": self.folder, "stream": is_stream}
        if kind == "responses":
            found: Any = client.responses.create(input="the cat sat", max_output_tokens=12, temperature=0, **settings)
            if not is_stream:
                return str(found.output_text)
            return "".join(each.delta for each in found if each.type == "response.output_text.delta")
        settings |= {"max_tokens": 12, "temperature": 0}
        if kind == "chat":
            messages: Any = [{"role": "user", "content": "the cat sat"}]
            found = client.chat.completions.create(messages=messages, **settings)
        else:
            found = client.completions.create(prompt="the cat sat", **settings)
        if not is_stream:
            return str(found.choices[0].message.content if kind == "chat" else found.choices[0].text)
        choices = [choice for chunk in found for choice in chunk.choices]
        return "".join((choice.delta.content if kind == "chat" else choice.text) or "" for choice in choices)


@pytest.fixture(scope="module")
def folder(chat_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    shutil.copytree(chat_model_dir, folder)
    assert main(["export-generate", str(folder), "--policy", "plain"]) == 0
    return folder


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    before = logging.get_verbosity()
    yield
    logging.set_verbosity(before)


@pytest.fixture(scope="module")
def trusted(folder: Path) -> Iterator[Served]:
    served = Served(folder, trust_remote_code=True)
    yield served
    served.close()


@pytest.fixture(scope="module")
def untrusted(folder: Path) -> Iterator[Served]:
    served = Served(folder)
    yield served
    served.close()


@pytest.fixture
def accepted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Accepted drafts of each call of a decoder."""
    found: list[int] = []
    own: Callable[..., Any] = SpecBoundDecoder._decode

    def decode(decoder: SpecBoundDecoder, *given: Any) -> Any:
        decoder.policy = StaticPolicy(exit_layers=(2,), threshold=0.01, w_max=3)
        output = own(decoder, *given)
        found.append(output.stats.num_accepted)
        return output

    monkeypatch.setattr(SpecBoundDecoder, "_decode", decode)
    return found


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("kind", ["chat", "completions", "responses"])
def test_every_text_endpoint_decodes_with_specbound(
    trusted: Served, untrusted: Served, accepted: list[int], kind: str, is_stream: bool
) -> None:
    expected = untrusted.text(kind, is_stream)
    assert not accepted
    assert trusted.text(kind, is_stream) == expected and expected
    until(lambda: len(accepted) == 1)  # a stream ends a moment before its call
    assert accepted[0] > 0


@pytest.mark.slow
def test_continuous_batching_never_calls_it(folder: Path, accepted: list[int]) -> None:
    served = Served(folder, trust_remote_code=True, continuous_batching=True)
    try:
        assert served.text("chat", False)
    finally:
        served.close()
    assert not accepted
