"""Stage `smollm2`: the table of `specbound results` of the reference model, a part for each level and way.

The model is joined from the parts that the calls have carried (`model_parts`); what a killed part has measured is gone
on with while the machine is held. A dry run takes a tiny random model in its place.
"""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from specbound.bench.gpu.carried import MODEL_FOLDER
from specbound.bench.gpu.finding import Finding, Part, Settings, Table
from specbound.bench.gpu.model_parts import MODEL, QUESTIONS, joined, parts_here
from specbound.bench.suite.config import SuiteConfig
from specbound.bench.suite.run import run_suite
from specbound.bench.suite.table import cell_table
from specbound.models.gguf import read_gguf
from specbound.models.loading import load_model
from specbound_profiling.prompts.spec_bench import MT_BENCH, ids_of

LEVELS, TEMPERATURES = ("bf16", "nf4", "int8"), (0.0, 0.7)
CONVERTED, RUN_FOLDER = "model", "run"
SECONDS = 100.0
"""A part begins with so many; one that is killed goes on in the next call."""


def parts(settings: Settings) -> Iterator[Part]:
    """A part for each cell of the table; none where the model has not been carried whole."""
    if settings.is_dry:
        ways = [("bf16", 0.0), ("bf16", 0.7)]  # the rest differs in the kernels alone, and takes a CPU long
    else:
        if not model_is_here("smollm2"):
            return
        here, _ = parts_here(MODEL_FOLDER)
        if not (here[0] / QUESTIONS).is_file():
            print("smollm2: left out, Spec-Bench's questions were not packed with the model", flush=True)
            return
        ways = [(level, temperature) for temperature in TEMPERATURES for level in LEVELS]
    for level, temperature in ways:
        yield Part(f"{level} {temperature:g}", partial(measured, level, temperature, settings), SECONDS)


def model_is_here(stage: str) -> bool:
    """Whether all parts of the model have been carried; says so where they have not."""
    here, count = parts_here(MODEL_FOLDER)
    if not count or len(here) < count:
        print(f"{stage}: left out, {len(here)} of {count or 'several'} parts of the model are here", flush=True)
        return False
    return True


def converted(folder: Path) -> Path:
    """The model that its parts make, as a checkpoint."""
    here, _ = parts_here(folder)
    model = folder / CONVERTED
    if not model.is_dir():
        joined(here, folder / MODEL)
        read_gguf(folder / MODEL, "smollm2").save(model)
    return model


def measured(level: str, temperature: float, settings: Settings) -> Finding:
    """One cell of the table."""
    with tempfile.TemporaryDirectory() as dry:
        config = dry_config(Path(dry)) if settings.is_dry else carried_config(MODEL_FOLDER)
        config = replace(config, compression=(level,), temperatures=(temperature,))
        (cell,) = run_suite(config, partial(print, flush=True)).cells
    table = cell_table(cell)
    name = "a tiny random model" if settings.is_dry else "SmolLM2-135M-Instruct"
    return Finding([Table(f"{name}, {table.title}", tuple(table.headings), table.rows)], cell.notes)


def carried_config(folder: Path) -> SuiteConfig:
    """The model from its parts, and 24 questions."""
    here, _ = parts_here(folder)
    return SuiteConfig(
        model=str(converted(folder)),
        prompts=f"{here[0] / QUESTIONS}:evaluation",
        out=str(folder / RUN_FOLDER),
        num_prompts=24,
        max_new_tokens=64,
        num_tuning_prompts=6,
        tuning_tokens=32,
        tuned_exit_layers=(2,),
        tuned_lengths=(2, 4),
        allow_noise=True,
    )


def dry_config(folder: Path) -> SuiteConfig:
    """A random model of two layers with the demonstration's tokenizer, and questions that say nothing."""
    write_dry_model(folder / CONVERTED)
    ids = [*sorted(ids_of("evaluation"))[:2], *sorted(ids_of("tuning"))[:2]]
    lines = [json.dumps({"question_id": int(i), "category": MT_BENCH[0], "turns": ["Once upon"]}) for i in ids]
    (folder / QUESTIONS).write_text("\n".join(lines) + "\n")
    return SuiteConfig(
        model=str(folder / CONVERTED),
        prompts=f"{folder / QUESTIONS}:evaluation",
        out=str(folder / RUN_FOLDER),
        num_prompts=1,
        max_new_tokens=8,
        num_tuning_prompts=1,
        tuning_tokens=8,
        tuned_exit_layers=(1,),
        tuned_lengths=(2,),
        allow_noise=True,
    )


def write_dry_model(folder: Path) -> None:
    """A checkpoint."""
    demo = load_model("demo")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=demo.model.config.vocab_size, num_key_value_heads=1, **sizes)
    config.eos_token_id = config.bos_token_id = demo.tokenizer.eos_token_id
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    demo.tokenizer.save_pretrained(folder)
