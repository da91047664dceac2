"""The README.md of a folder that `fit` wrote. Measures nothing."""

from collections.abc import Mapping
from typing import Any

from specbound.fit.answer import Answer
from specbound.fit.config import FitConfig
from specbound_controller.policy_names import reads_exits
from specbound_controller.settings import in_words

_TEXT = """# What decodes {model} fastest here

{answer}

## Use it

    from specbound import SpecBoundDecoder

    decoder = SpecBoundDecoder.from_pretrained(model, "{out}"{argument})  # any model with these weights
    ids = decoder.generate(**inputs, max_new_tokens=128)         # as model.generate
    text = decoder.chat("Name three rivers.", tokenizer, max_new_tokens=128)

    specbound generate --model {model} --policy {out}{option} --prompt "TEXT" --compare

On another machine costs are measured anew at the first use (half a minute); whether the setting is the best there, only
another `specbound fit` says.

## How it was found

{table}

The last race, tokens per second over plain decoding's on prompts that nothing was trained or raced on before:

{race}

Measured on {measured} other prompts, each decoded twice by every method, interleaved; the interval is a bootstrap over
prompts.

## Files

| file | holds |
|---|---|
| `decoder.json` | what to play, for which model, level and exactness |
| `costs.json` | what work costs on this machine |
| `controller/` | the trained controller, where one was trained; any command takes it as `--controller` |
| `log/` | what every exit would have drafted: `specbound replay --log {out}/log`, `specbound report --log {out}/log` |
| `prompts_*.jsonl` | the prompts of profiling, of the last race and of the measurement, none of them in two |
| `fit.json` | all figures |
"""


def exits_words(config: FitConfig, policy: str) -> tuple[str, str]:
    """How trained exits are named where a policy needs them: as an option, and as an argument; else two empty texts."""
    if config.exits is None or not reads_exits(policy):
        return "", ""
    return f" --exits {config.exits}", f', exits=TrainedExits.from_pretrained("{config.exits}")'


def folder_card(config: FitConfig, result: Answer, values: Mapping[str, Any]) -> str:
    """The card as Markdown. values: what the notebook holds."""
    sizes, speed = {"max_new_tokens": config.max_new_tokens, **values["sizes"]}, values["speed"]
    rows = {
        "prompts": values["prompts"],
        "profiled": f"{sizes['profile']} prompts of at most {sizes['max_new_tokens']} tokens",
        "raced on": f"{sizes['race']} of them, short; then {sizes['final']} others",
        "measured on": f"{sizes['measure']} others",
        "plain decoding": f"{1 / speed['per_token_s']:.1f} tokens/s, {1000 * speed['per_prompt_s']:.0f} ms a prompt",
        "machine": values["machine"],
    }
    table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])
    race = "\n".join(
        ["| setting | over plain | name |", "|---|---:|---|"]
        + [f"| {in_words(name)} | {over:.2f}x | `{name}` |" for name, over in values["final"].items()]
    )
    option, argument = exits_words(config, result.policy)
    return _TEXT.format(
        option=option,
        argument=argument,
        model=config.model,
        out=config.out,
        answer="\n".join(f"* {sentence}" for sentence in result.sentences),
        table=table,
        race=race,
        measured=sizes["measure"],
    )
