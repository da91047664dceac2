"""`specbound chat`: answers are those of the whole history, the history is in the cache, Ctrl-C ends one answer."""

import io
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from specbound import SpecBoundDecoder, StaticPolicy
from specbound.chat.config import ChatConfig
from specbound.chat.conversation import Conversation, FullContextError
from specbound.chat.drafts import MODEL, DraftStream
from specbound.chat.screen import Screen
from specbound.cli.main import main
from specbound.generation.generate import Prepared, prepare
from tests.test_imports import source_environment

Chat = Callable[..., tuple[int, list[str], str]]
DRAFTS = ("--policy", "static:exit2@0.01,width4")
"""Without the guard's prices nothing would have to be measured; the tests put made-up ones in their place."""
MESSAGES = ("the cat sat on the mat", "a dog ran", "two and one")


@pytest.fixture(autouse=True)
def drafts_without_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy of `DRAFTS` drafts always: no machine's prices decide what a test sees."""
    policy = StaticPolicy((0, 2), (0.5, 0.01), w_max=4)
    monkeypatch.setattr("specbound.decoding.decoder.named_policy", lambda *arguments: policy)


@pytest.fixture
def chat(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, chat_model_dir: Path) -> Chat:
    """Runs the command on lines of standard input: exit code, lines of output, standard error."""

    def call(lines: Sequence[str], *options: str, model: Path | str = chat_model_dir) -> tuple[int, list[str], str]:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        code = main(("chat", "--model", str(model), "--max-new-tokens", "24", *DRAFTS, *options))
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err

    return call


def prepared(model: Path, **settings: Any) -> Prepared:
    return prepare(ChatConfig(model=str(model), **{"max_new_tokens": 24, "policy": DRAFTS[1], **settings}))


def whole_answers(folder: Path, messages: Sequence[str], **arguments: Any) -> list[str]:
    """What `decoder.chat` answers to the whole history, each time anew and without drafts."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    decoder = SpecBoundDecoder(AutoModelForCausalLM.from_pretrained(folder))
    history: list[dict[str, str]] = list(arguments.pop("history", ()))
    answers = []
    for message in messages:
        history.append({"role": "user", "content": message})
        answers.append(decoder.chat(history, tokenizer, max_new_tokens=24, **arguments))
        history.append({"role": "assistant", "content": answers[-1]})
    return answers


def test_every_answer_is_that_of_the_whole_history(chat: Chat, chat_model_dir: Path) -> None:
    code, out, err = chat(MESSAGES)
    assert code == 0, err
    assert out == whole_answers(chat_model_dir, MESSAGES)
    figures = [line for line in err.splitlines() if "tokens/s" in line]
    assert len(figures) == 3 and all("tokens per step" in line and "accepted from" in line for line in figures)


def test_sampling_options_and_the_system_prompt_are_those_of_the_decoder(chat: Chat, chat_model_dir: Path) -> None:
    code, out, err = chat(MESSAGES, "--sample", "--temperature", "1.5", "--seed", "3", "--system", "that was one")
    assert code == 0, err
    system = [{"role": "system", "content": "that was one"}]
    settings = {"do_sample": True, "temperature": 1.5, "seed": 3, "top_k": 0}
    assert out == whole_answers(chat_model_dir, MESSAGES, history=system, **settings)
    assert out != whole_answers(chat_model_dir, MESSAGES, **settings)


def test_reset_begins_anew_and_exit_ends(chat: Chat, chat_model_dir: Path) -> None:
    code, out, _ = chat([*MESSAGES[:2], "/reset", MESSAGES[0], "/exit", "never read"])
    first, second = whole_answers(chat_model_dir, MESSAGES[:2])
    assert (code, out) == (0, [first, second, first])


def test_a_raw_conversation_continues_its_own_text(chat: Chat, tiny_model_dir: Path) -> None:
    code, out, err = chat(MESSAGES[:2], "--raw", model=tiny_model_dir)
    assert code == 0, err
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    decoder = SpecBoundDecoder(AutoModelForCausalLM.from_pretrained(tiny_model_dir))
    text = ""
    for message, answer in zip(MESSAGES[:2], out, strict=True):
        text = f"{text}\n{message}".strip()
        whole = tokenizer.decode(decoder.generate(text, tokenizer=tokenizer, max_new_tokens=24)[0])
        assert whole == f"{' '.join(text.split())} {answer}"
        text = f"{text} {answer}"


def test_only_what_is_new_is_read_in_later_turns(chat_model_dir: Path) -> None:
    conversation = Conversation(prepared(chat_model_dir))
    conversation.reply(MESSAGES[0] + " then that was one" * 20)
    rows: list[int] = []
    layers = conversation.prepared.decoder.adapter.layers
    layers[0].register_forward_pre_hook(lambda module, args: rows.append(args[0].shape[1]))
    conversation.reply("two")
    assert rows[0] <= 24 + 8  # of the 90 before the answer none; the answer where its text reads as other tokens


class Numbers:
    """A tokenizer that gives every token a text."""

    def decode(self, tokens: Sequence[int], **others: bool) -> str:
        return "".join(f" {token}" for token in tokens)


def test_sources_of_an_answer_are_those_of_its_steps(chat_model_dir: Path) -> None:
    conversation = Conversation(prepared(chat_model_dir, max_new_tokens=60))
    pieces: list[tuple[str, str]] = []
    stream = DraftStream(Numbers(), lambda *piece: pieces.append(piece))
    stats = conversation.reply(MESSAGES[0], streamer=stream, on_step=stream.on_step).stats
    counts = {source: sum(each == source for _, each in pieces) for _, source in pieces}
    assert counts.pop(MODEL) == stats.num_tokens - stats.num_accepted
    assert counts == stats.accepted_by_source and set(counts) == {"context", "exit"}


@pytest.fixture
def listens() -> Iterator[None]:
    """Ctrl-C does what it does in a program that nobody else runs: test runners in several processes ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press_ctrl_c_at_piece(monkeypatch: pytest.MonkeyPatch, number: int, times: int = 1) -> None:
    """As somebody who watches the first answer: Ctrl-C when so many pieces are there."""
    shown: list[str] = []
    show = Screen.show

    def show_and_press(self: Screen, piece: str, source: str) -> None:
        show(self, piece, source)
        shown.append(piece)
        for _ in range(times if len(shown) == number else 0):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Screen, "show", show_and_press)


@pytest.mark.usefixtures("listens")
def test_ctrl_c_ends_the_answer_and_keeps_it_in_the_history(
    chat: Chat, chat_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = whole_answers(chat_model_dir, MESSAGES[:1])[0]
    press_ctrl_c_at_piece(monkeypatch, 6)
    code, out, err = chat(MESSAGES[:2])
    assert code == 0, err
    assert whole.startswith(out[0]) and 0 < len(out[0]) < len(whole)
    assert "interrupted" in err and err.count("tokens/s") == 2
    told = [{"role": "user", "content": MESSAGES[0]}, {"role": "assistant", "content": out[0]}]
    assert out[1:] == whole_answers(chat_model_dir, MESSAGES[1:2], history=told)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("listens")
def test_a_second_ctrl_c_forgets_the_turn(chat: Chat, chat_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, third = whole_answers(chat_model_dir, (MESSAGES[0], MESSAGES[2]))
    press_ctrl_c_at_piece(monkeypatch, len(first.split()) + 3, times=2)  # in the second answer
    code, out, err = chat(MESSAGES)
    assert code == 0, err
    assert (out[0], out[2]) == (first, third)
    assert "the message and its answer are forgotten" in err


def test_an_answer_ends_where_the_context_does(chat: Chat, chat_model_dir: Path) -> None:
    messages = ["the " * 480, "two"]
    code, out, err = chat(messages, "--max-new-tokens", "100")
    assert code == 2 and len(out[0].split()) <= 512 - 480
    assert "the model's context is full: /reset begins anew" in err
    assert re.search(r"error: the conversation would be \d+ tokens long, and model \S+ takes 512", err)


def test_who_types_goes_on_after_a_message_that_does_not_fit(chat_model_dir: Path) -> None:
    from specbound.chat.run import chat

    said: list[str] = []
    config = ChatConfig(model=str(chat_model_dir), policy=DRAFTS[1], max_new_tokens=8)
    chat(config, iter([MESSAGES[0], "the " * 600, MESSAGES[1]]), said.append, is_interactive=True)
    assert (
        sum("tokens/s" in line for line in said) == 2 and sum("/reset begins a new one" in line for line in said) == 1
    )
    conversation = Conversation(prepared(chat_model_dir))
    conversation.reply(MESSAGES[0])
    messages = list(conversation.messages)
    with pytest.raises(FullContextError):
        conversation.reply("the " * 600)
    assert conversation.messages == messages


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "has none: give --raw, which continues text, or another --model"),
        (("--raw", "--system", "x"), "system and raw must not be given together"),
        (("--top-p", "0.5"), "need sample"),
        (("--prompt", "x"), "unknown option '--prompt'"),
    ],
)
def test_what_cannot_be_is_one_line(chat: Chat, tiny_model_dir: Path, options: tuple[str, ...], message: str) -> None:
    code, out, err = chat(["the cat"], *options, model=tiny_model_dir)
    assert (code, out) == (2, []), err
    assert message in err and err.count("\n") == 1


def test_a_template_that_takes_no_system_prompt_is_said_before_the_first_message(
    chat: Chat, chat_model_dir: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(chat_model_dir, tmp_path / "strict")
    for file in (folder / "chat_template.jinja", folder / "tokenizer_config.json"):
        if file.exists():
            refuse = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
            file.write_text(file.read_text().replace("{% for message", f"{refuse}{{% for message", 1))
    code, out, err = chat([], "--system", "x", model=folder)
    assert (code, out) == (2, []) and "does not take this chat: no system here" in err


@pytest.mark.parametrize(
    ("terminal", "is_shaded"), [({"FORCE_COLOR": "1"}, True), ({"NO_COLOR": "1"}, False), ({}, False)]
)
def test_drafts_are_shaded_in_a_terminal_with_colours_only(
    chat: Chat, chat_model_dir: Path, monkeypatch: pytest.MonkeyPatch, terminal: dict[str, str], is_shaded: bool
) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", **terminal}.items():
        monkeypatch.setenv(name, value)
    code, out, err = chat(MESSAGES[:1], "--show-drafts")
    assert code == 0, err
    plain = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in out]
    assert plain == whole_answers(chat_model_dir, MESSAGES[:1])
    assert (out != plain) == is_shaded == ("unshaded: the full model" in err)


class Terminal:
    """The command in a terminal of its own, as somebody at the keyboard has it."""

    def __init__(self, *options: str) -> None:
        self._here, there = pty.openpty()
        environment = {**source_environment(), "TERM": "xterm-256color"}
        environment.pop("NO_COLOR", None)
        attach = 'exec "$@" < "$0" > "$0" 2>&1'  # who leads a session and opens a terminal gets its keys as signals
        command = ["sh", "-c", attach, os.ttyname(there), sys.executable, "-m", "specbound", "chat", *options]
        self.process = subprocess.Popen(command, env=environment, start_new_session=True)
        self._there = there  # open, so that nothing is lost when the command ends
        self.text = ""

    def read_until(self, wanted: str, seconds: float = 300) -> None:
        """Everything up to some text. Raises AssertionError where it does not come."""
        start, end = len(self.text), time.monotonic() + seconds
        while wanted not in self.text[start:]:
            ready, _, _ = select.select([self._here], [], [], max(0.0, end - time.monotonic()))
            assert ready, self.text
            self.text += os.read(self._here, 65536).decode("utf-8", "replace")

    def type(self, keys: str) -> None:
        os.write(self._here, keys.encode())


@pytest.mark.usefixtures("listens")
def test_the_keyboard_in_a_terminal(tiny_model_dir: Path, tmp_path: Path) -> None:
    options = ("--policy", "plain", "--raw", "--max-new-tokens", "450", "--show-drafts")
    terminal = Terminal("--model", str(tiny_model_dir), *options)
    try:
        terminal.read_until("> ")
        assert "unshaded: the full model" in terminal.text and "Ctrl-C ends an answer" in terminal.text
        terminal.type("the cat sat\n")
        terminal.read_until("under")
        terminal.type("\x03")
        terminal.read_until("> ")
        assert "interrupted" in terminal.text
        terminal.type("\x04")
        assert terminal.process.wait(60) == 0
    finally:
        terminal.process.kill()
