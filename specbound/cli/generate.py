"""`specbound generate`: parse, decode, print the text and one line of figures."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from specbound.cli.edge import hand_over, say, set_up, show
from specbound.cli.parsing import gathered, parse_config
from specbound.cli.streams import input_text, unicode_text
from specbound.generation.config import GenerateConfig
from specbound.generation.figures import accepted_from
from specbound_controller.errors import InputError
from specbound_controller.figures import number

if TYPE_CHECKING:
    from specbound.generation.generate import Generation


def run(argv: Sequence[str]) -> int:
    config = parse_config(GenerateConfig, "generate", gathered(with_message(argv), "--stop"))
    prompt = _prompt(config)
    set_up(config)
    from specbound.generation.generate import generate

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


def _prompt(config: GenerateConfig) -> str:
    prompt = input_text() if config.prompt == "-" else config.prompt
    if prompt is None or not prompt.strip():
        raise InputError("--prompt must hold text, got none" + (" on standard input" if config.prompt == "-" else ""))
    return unicode_text(prompt, "--prompt")


def _figures(result: "Generation") -> str:
    """One line: the method's figures, and plain decoding's beside them where it ran too."""
    own = result.rows[0]
    parts = [
        f"{own.method}: {number(own.tokens_per_second, 1)} tokens/s",
        f"{own.tokens_per_step:.2f} tokens per step" if own.tokens_per_step == own.tokens_per_step else "no steps",
        f"acceptance rate {own.acceptance_rate:.2f}" if own.acceptance_rate == own.acceptance_rate else "no drafts",
    ]
    if result.accepted:
        parts.append(accepted_from(result.accepted))
    for plain in result.rows[1:]:
        parts.append(f"plain: {number(plain.tokens_per_second, 1)} tokens/s")
        if own.speedup == own.speedup:
            parts.append(f"speedup {own.speedup:.2f}x on this one prompt")
        parts.append("outputs equal" if own.outputs_equal else result.difference)
    return " · ".join(parts)
