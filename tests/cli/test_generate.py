"""The options of `specbound generate`: sampling, stop texts, exactness, one message."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from specbound.assets import demo_controller_dir
from specbound.cli.main import main
from specbound.cli.parsing import gathered
from specbound_controller.controller import Controller

Run = Callable[..., tuple[int, str, str]]
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} : {{ message['content'] }} . {% endfor %}"
    "{% if add_generation_prompt %}then {% endif %}"
)


@pytest.fixture
def run(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*options: str, model: Path = tiny_model_dir) -> tuple[int, str, str]:
        code = main(("generate", "--model", str(model), "--max-new-tokens", "24", *options))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def chat_model(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """The model with a chat template."""
    folder = shutil.copytree(tiny_model_dir, tmp_path / "chat")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": TEMPLATE}))
    return folder


def test_the_same_seed_samples_the_same_text_and_another_one_another(run: Run) -> None:
    sample = ("--prompt", "the cat", "--sample", "--temperature", "1.2", "--top-k", "30", "--top-p", "0.95")
    texts = [run(*sample, "--seed", seed)[1] for seed in ("1", "1", "2")]
    assert texts[0] == texts[1] != texts[2]
    assert texts[0] != run("--prompt", "the cat")[1]


def test_compare_samples_both_with_one_seed(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ("generate", "--prompt", "def read(", "--max-new-tokens", "24", "--sample", "--seed", "5", "--compare")
    assert main((*argv, "--json", "-")) == 0
    own, plain = json.loads(capsys.readouterr().out)["rows"]
    assert (own["method"], plain["method"], own["outputs_equal"]) == ("controller", "plain", True)
    assert own["speedup"] > 0 and own["exactness"] == "token"


def test_bitwise_exactness_makes_a_speedup_of_16_bits_a_claim(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own_costs = Controller.load(demo_controller_dir()).config.costs["none"]
    monkeypatch.setattr("specbound.generation.generate.choose_costs", lambda *arguments: (own_costs, "costs: its own"))
    argv = ("generate", "--prompt", "def read(", "--max-new-tokens", "16", "--compression", "bf16", "--compare")
    assert main((*argv, "--exactness", "bitwise", "--json", "-")) == 0
    own, _ = json.loads(capsys.readouterr().out)["rows"]
    assert own["outputs_equal"] is True and own["speedup"] > 0 and own["exactness"] == "bitwise"


def test_a_stop_text_ends_the_output_with_drafts_or_without(capsys: pytest.CaptureFixture[str]) -> None:
    def text(*options: str) -> str:
        assert main(("generate", "--prompt", "def read(path):", "--max-new-tokens", "40", *options)) == 0
        return capsys.readouterr().out.rstrip("\n")

    whole = text()
    stop = whole[30:33]
    expected = whole[: whole.index(stop) + len(stop)]
    cut = text("--stop", stop)
    assert cut.startswith(expected) and len(cut) < len(expected) + 12  # a token may go on behind the stop
    assert text("--stop", "no such, text", f"--stop={stop}", "--controller", "none") == cut
    assert text("--stop", "no such, text") == whole


def test_values_of_a_repeated_option_are_gathered_as_they_are() -> None:
    argv = ["--stop", "a, b", "--prompt", "x", "--stop=[#", "--stop", "\n"]
    assert gathered(argv, "--stop") == ["--prompt", "x", "--stop", '["a, b", "[#", "\\n"]']
    assert gathered(["--prompt", "x"], "--stop") == ["--prompt", "x"]


def test_chat_applies_the_template(run: Run, chat_model: Path) -> None:
    written = run("--prompt", "user : the cat . then ")[1]
    for options in (("--prompt", "the cat"), ("--chat", "--prompt", "the cat"), ("--chat", "the cat")):
        code, out, err = run(*options, model=chat_model)
        assert code == 0, err
        assert out == written
    assert run("--prompt", "the cat", "--raw", model=chat_model)[1] == run("--prompt", "the cat")[1] != written


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--chat", "--prompt", "x"), "chat needs a tokenizer with a chat template"),
        (("--chat", "x", "--raw"), "chat and raw must not be given together"),
        (("--prompt", "x", "--stop", ""), "--stop must not be empty"),
        (("--prompt", "x", "--stop"), "--stop must not be empty"),
        (("--prompt", "x", "--top-p", "0.5"), "need sample"),
        (("--prompt", "x", "--exactness", "fp32"), "exactness must be one of token, bitwise, got 'fp32'"),
        (("--prompt", "x", "--compile"), "compile must be False on cpu, because segments are CUDA graphs"),
        ((), "--prompt is required"),
        (("--chat",), "specbound chat holds a conversation"),
    ],
)
def test_wrong_options_are_one_line(run: Run, options: tuple[str, ...], message: str) -> None:
    code, out, err = run(*options)
    assert (code, out) == (2, ""), err
    assert message in err and err.count("\n") == 1
