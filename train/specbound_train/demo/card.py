"""Measures the demonstration model and writes its model card. Every figure of the card comes from here."""

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from specbound_profiling.prompts.loops import loop_cut
from specbound_train.demo.corpus import KINDS
from specbound_train.demo.pretrain import PretrainConfig, exit_losses
from specbound_train.demo.tokens import OWN, validation_batches

NUM_NEW_TOKENS = 96
ROWS_PER_KIND = 32
TEMPLATE = Path(__file__).with_name("card_template.md")


@dataclass(frozen=True, slots=True)
class Continuations:
    """Greedy continuations of the held-out prompts."""

    agreement: dict[str, dict[int, float]]
    """Kind (or `all`) -> exit layer -> share of positions that agree with the last layer."""
    loop_share: float
    """Share of the generated tokens that a loop cut removes."""
    samples: list[tuple[str, str, str]]
    """(kind, prompt, continuation sampled at temperature 0.7), one per kind."""


@torch.inference_mode()
def held_out_losses(
    model: LlamaForCausalLM, streams: dict[str, np.ndarray], length: int
) -> dict[str, dict[int, float]]:
    """Kind -> layers run -> nats per token."""
    exits = tuple(range(1, model.config.num_hidden_layers))
    batches = validation_batches(streams, length, ROWS_PER_KIND)
    return {kind: {e: float(loss) for e, loss in exit_losses(model, b, exits).items()} for kind, b in batches.items()}


@torch.inference_mode()
def continuations(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: list[dict[str, str]]
) -> Continuations:
    """Greedy text, how often each exit agrees on it with the last layer, and how much of it loops."""
    agree: dict[str, list[torch.Tensor]] = {kind: [] for kind in KINDS}
    num_tokens = num_cut = 0
    samples: dict[str, tuple[str, str, str]] = {}
    for row in prompts:
        inputs = tokenizer(row["prompt"], return_tensors="pt")
        sequence = model.generate(**inputs, max_new_tokens=NUM_NEW_TOKENS, do_sample=False)
        start = inputs["input_ids"].shape[1]
        new = sequence[0, start:].tolist()
        kept = loop_cut(new)
        kept = len(new) if kept is None else kept
        num_tokens, num_cut = num_tokens + len(new), num_cut + len(new) - kept
        hidden = model.model(sequence[:, : start + kept - 1], output_hidden_states=True).hidden_states
        tops = [model.lm_head(model.model.norm(h[0, start - 1 :])).argmax(-1) for h in hidden[1:-1]]
        last = model.lm_head(hidden[-1][0, start - 1 :]).argmax(-1)
        agree[row["task"]].append(torch.stack([top == last for top in tops]).float())
        if row["task"] not in samples:
            text = sampled_text(model, tokenizer, row["prompt"])
            samples[row["task"]] = (row["task"], row["prompt"], text)
    pooled = {kind: torch.cat(values, dim=1) for kind, values in agree.items()}
    pooled["all"] = torch.cat(list(pooled.values()), dim=1)
    agreement = {kind: dict(enumerate(p.mean(1).tolist(), start=1)) for kind, p in pooled.items()}
    return Continuations(agreement, num_cut / num_tokens, list(samples.values()))


def sampled_text(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """A continuation at temperature 0.7: greedy text of so small a model loops too soon to show its language."""
    inputs = tokenizer(prompt, return_tensors="pt")
    torch.manual_seed(0)
    sequence = model.generate(**inputs, max_new_tokens=NUM_NEW_TOKENS, do_sample=True, temperature=0.7, top_k=0)
    return tokenizer.decode(sequence[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def curve(run: Path) -> list[dict[str, float]]:
    """The loss curve of a run, resumed parts joined: rows of the CSV logger in order of steps."""
    rows: dict[int, dict[str, float]] = {}
    for path in sorted(run.glob("curve/version_*/metrics.csv"), key=lambda p: int(p.parent.name.split("_")[1])):
        with path.open() as file:
            for row in csv.DictReader(file):
                values = {key: float(value) for key, value in row.items() if value}
                rows.setdefault(int(values["step"]), {}).update(values)
    return [rows[step] for step in sorted(rows)]


def loss_at(run: Path, layer: int, num_tokens: float) -> tuple[float, float]:
    """(tokens, mean held-out loss over the kinds at a depth) at the last reading up to a number of tokens."""
    readings = [r for r in curve(run) if f"held_out_layer_{layer}" in r and r["tokens"] <= num_tokens + 0.5]
    return readings[-1]["tokens"], readings[-1][f"held_out_layer_{layer}"]


def comparison_table(run: Path, config: PretrainConfig, losses: dict[str, dict[int, float]]) -> str:
    """The model against its own exit at L/4, a model of L/4 layers, and a twin without the exit loss."""
    quarter, depth = config.num_layers // 4, config.num_layers
    full = float(np.mean([by_layer[depth] for by_layer in losses.values()]))
    own_exit = float(np.mean([by_layer[quarter] for by_layer in losses.values()]))
    shallow_tokens, shallow = loss_at(run / "shallow", quarter, config.comparison_tokens)
    twin_tokens, twin = loss_at(run / "twin", depth, config.twin_tokens)
    main_then = loss_at(run / "main", depth, shallow_tokens)[1]
    main_early = loss_at(run / "main", depth, twin_tokens)[1]
    rows = [
        "| compared with | tokens | this model | the other | difference |",
        "|---|---|---|---|---|",
        f"| its own exit at layer {quarter} | all | {full:.3f} | {own_exit:.3f} | {own_exit - full:+.3f} nats |",
        f"| a model of {quarter} layers, no exit loss | {shallow_tokens:,.0f} | {main_then:.3f} | {shallow:.3f} "
        f"| {shallow - main_then:+.3f} nats |",
        f"| a twin without the exit loss | {twin_tokens:,.0f} | {main_early:.3f} | {twin:.3f} "
        f"| {main_early / twin - 1:+.1%} |",
    ]
    return "\n".join(rows)


def stage_text(config: PretrainConfig) -> str:
    """One line on a round of training."""
    texts = ", ".join(f"{share:.0%} {kind}" for kind, share in config.shares.items())
    own = " (its own greedy text, from which the exits alone learn)" if OWN in config.shares else ""
    layers = ", ".join(map(str, config.exit_layers))
    return (
        f"{config.num_tokens:,} tokens: {texts}{own}. Each step adds {config.exit_loss_weight:g} x the mean loss of "
        f"{config.exits_per_step} of the exit layers {layers}, drawn anew, read through the shared norm and head: "
        f"{config.imitation_share:.0%} cross-entropy to the full model's own distribution, the rest to the next token"
    )


def write_card(
    path: Path,
    run: Path,
    config: PretrainConfig,
    model: LlamaForCausalLM,
    losses: dict[str, dict[int, float]],
    text: Continuations,
    num_prompts: int,
    training_time: str,
) -> None:
    """Writes the model card with every figure measured above."""
    depths = [1, 2, 3, 4, 6, 8, 12, config.num_layers]
    header = "| kind | " + " | ".join(f"exit {d}" for d in depths[:-1]) + " | full model |\n"
    ruler = "|---" * (len(depths) + 1) + "|\n"
    loss_rows = [f"| {kind} | " + " | ".join(f"{by[d]:.3f}" for d in depths) + " |" for kind, by in losses.items()]
    agreement_rows = [
        f"| {kind} | " + " | ".join(f"{by[d]:.3f}" for d in depths[:-1]) + " | 1 |"
        for kind, by in text.agreement.items()
    ]
    samples = "\n\n".join(
        f"**{kind}**\n\n```text\n{prompt} ▌{continuation}\n```" for kind, prompt, continuation in text.samples
    )
    values = {name: getattr(config, name) for name in PretrainConfig.__dataclass_fields__}
    stages = (config, *(replace(config, **changes) for changes in config.rounds))
    path.write_text(
        TEMPLATE.read_text().format(
            **values,
            num_parameters=sum(p.numel() for p in model.parameters()),
            training_time=training_time,
            stages="\n".join(f"| round {number} | {stage_text(stage)} |" for number, stage in enumerate(stages)),
            loss_table=header + ruler + "\n".join(loss_rows),
            comparison_table=comparison_table(run, config, losses),
            agreement_table=header + ruler + "\n".join(agreement_rows),
            num_prompts=num_prompts,
            num_new_tokens=NUM_NEW_TOKENS,
            loop_share=text.loop_share,
            samples=samples,
        )
    )
