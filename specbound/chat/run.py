"""The turns of `specbound chat`: a line in, an answer out, figures beside it. Knows no command line."""

from collections.abc import Callable, Iterable

from transformers import StoppingCriteriaList

from specbound.chat.config import ChatConfig
from specbound.chat.conversation import Conversation, FullContextError, Reply
from specbound.chat.drafts import DraftStream
from specbound.chat.interrupt import CtrlC
from specbound.chat.screen import Screen
from specbound.generation.figures import accepted_from
from specbound.generation.generate import prepare
from specbound_controller.figures import number

EXIT, RESET = "/exit", "/reset"
HELP = f"Ctrl-C ends an answer · {RESET} begins anew · {EXIT} or Ctrl-D ends"


def chat(config: ChatConfig, lines: Iterable[str], say: Callable[[str], None], is_interactive: bool) -> None:
    """Answers every line until they end.

    say: gets figures and notes. is_interactive: somebody types, and reads how; what does not fit is then no error.

    Raises:
        InputError: the model takes no conversation, or, where nobody types, a message that does not fit.
    """
    conversation = Conversation(prepare(config), config.system, config.raw)
    screen = Screen(config.show_drafts)
    say(conversation.prepared.costs or "plain decoding")
    if screen.is_shaded:
        say(screen.legend())
    if is_interactive:
        say(HELP)
    for line in lines:
        command = line.strip()
        if command == EXIT:
            return
        if command == RESET:
            conversation.reset()
            say("the conversation begins anew")
            continue
        try:
            _answer(conversation, line, screen, say)
        except FullContextError as error:
            if not is_interactive:
                raise
            say(str(error))


def _answer(conversation: Conversation, line: str, screen: Screen, say: Callable[[str], None]) -> None:
    """One answer, piece by piece, and its figures; or as much of it as there was until Ctrl-C."""
    stream = DraftStream(conversation.prepared.loaded.tokenizer, screen.show)
    ctrl_c = CtrlC()
    message = line if conversation.is_raw else line.strip()
    try:
        with ctrl_c.listening():
            reply = conversation.reply(
                message, streamer=stream, on_step=stream.on_step, stopping_criteria=StoppingCriteriaList([ctrl_c])
            )
    except KeyboardInterrupt:
        if not ctrl_c.is_pressed:
            raise
        screen.end_line()
        say("interrupted: the message and its answer are forgotten")
        return
    screen.end_line()
    say(_figures(reply, ctrl_c.is_pressed))


def _figures(reply: Reply, is_interrupted: bool) -> str:
    stats = reply.stats
    parts = [
        f"{stats.num_tokens} tokens",
        f"{number(stats.tokens_per_second, 1)} tokens/s",
        f"{number(stats.tokens_per_step, 2)} tokens per step",
        accepted_from(stats.accepted_by_source) if stats.num_drafted else "no drafts",
        "interrupted" if is_interrupted else reply.cut,
    ]
    return " · ".join(part for part in parts if part)
