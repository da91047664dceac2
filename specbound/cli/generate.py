"""`specbound generate`: parse, decode, print the text and one line of figures."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from specbound.cli.edge import hand_over, say, set_up, show
from specbound.cli.parsing import parse_config
from specbound.cli.streams import input_lines, input_text, unicode_text
from specbound.generation.config import GenerateConfig
from specbound_controller.errors import InputError
from specbound_controller.figures import number

if TYPE_CHECKING:
    from specbound.generation.generate import Generation


def run(argv: Sequence[str]) -> int:
    config = parse_config(GenerateConfig, "generate", gathered(with_message(argv), "--stop"))
    prompt = "" if config.is_conversation else _prompt(config)
    set_up(config)
    from specbound.generation.generate import generate

    if config.is_conversation:
        return _converse(config)
    result = generate(config, prompt)
    text = () if config.stream else (result.text,)
    hand_over(config.json, lambda: show(*text), result.rows, result.model, prompt=prompt, text=result.text)
    if result.costs:
        say(result.costs)
    say(_figures(result))
    return 0 if result.is_trustworthy else 1


def with_message(argv: Sequence[str]) -> list[str]:
    """`--chat "TEXT"` means `--chat --prompt "TEXT"`."""
    options = list(argv)
    if "--chat" in options:
        after = options.index("--chat") + 1
        if after < len(options) and not options[after].startswith("--"):
            options.insert(after, "--prompt")
    return options


def gathered(argv: Sequence[str], flag: str) -> list[str]:
    """The command line with all values of a repeated option in one list: a value may hold commas and brackets."""
    others, values = [], []
    options = iter(argv)
    for option in options:
        name, equals, value = option.partition("=")
        if name != flag:
            others.append(option)
        elif equals:
            values.append(value)
        else:
            values.append(next(options, ""))
    return [*others, flag, json.dumps(values)] if values else others


def _prompt(config: GenerateConfig) -> str:
    prompt = input_text() if config.prompt == "-" else config.prompt
    if prompt is None or not prompt.strip():
        raise InputError("--prompt must hold text, got none" + (" on standard input" if config.prompt == "-" else ""))
    return unicode_text(prompt, "--prompt")


def _converse(config: GenerateConfig) -> int:
    """Answers every line of standard input, until it ends."""
    from specbound.generation.generate import Conversation, prepare, text_streamer

    conversation = Conversation(prepare(config))
    say(conversation.prepared.costs or "plain decoding")
    for message in input_lines():
        streamer = text_streamer(conversation.prepared.loaded) if config.stream else None
        text, stats = conversation.reply(message, streamer)
        if not config.stream:
            print(text, flush=True)
        say(f"{stats.num_tokens} tokens, {number(stats.tokens_per_second, 1)} tokens/s")
    return 0


def _figures(result: "Generation") -> str:
    """One line: the method's figures, and plain decoding's beside them where it ran too."""
    own = result.rows[0]
    parts = [
        f"{own.method}: {number(own.tokens_per_second, 1)} tokens/s",
        f"{own.tokens_per_step:.2f} tokens per step" if own.tokens_per_step == own.tokens_per_step else "no steps",
        f"acceptance rate {own.acceptance_rate:.2f}" if own.acceptance_rate == own.acceptance_rate else "no drafts",
    ]
    if result.accepted:
        by_count = sorted(result.accepted.items(), key=lambda item: -item[1])
        parts.append("accepted from " + ", ".join(f"{source} {count}" for source, count in by_count))
    for plain in result.rows[1:]:
        parts.append(f"plain: {number(plain.tokens_per_second, 1)} tokens/s")
        if own.speedup == own.speedup:
            parts.append(f"speedup {own.speedup:.2f}x")
        parts.append("outputs equal" if own.outputs_equal else result.difference)
    return " · ".join(parts)
