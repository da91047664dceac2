"""`python -m specbound_train.demo --text DIR --out DIR`: the demonstration model, from texts to a finished package.

Trains the model (OUT/main), in further rounds where the config names them (OUT/round1, OUT/round2, ...), and the two
models it is compared with (OUT/shallow, OUT/twin), then writes weights, tokenizer, prompts, loss curve and model card
to OUT/package. Resumable: a stage that is done is not done again.
"""

import argparse
import dataclasses
import json
import logging
import shutil
from pathlib import Path

import torch
import yaml
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from specbound_train.demo.card import continuations, held_out_losses, write_card
from specbound_train.demo.corpus import Document, cut_prompts, load_documents
from specbound_train.demo.own_text import load_or_write
from specbound_train.demo.pretrain import PretrainConfig, pretrain
from specbound_train.demo.tokens import OWN, load_or_encode, train_tokenizer

NUM_PROMPTS_PER_KIND = {"profile": 80, "evaluate": 40}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m specbound_train.demo", description=__doc__)
    parser.add_argument("--text", type=Path, required=True, help="folder with the sources of text_manifest.json")
    parser.add_argument("--out", type=Path, required=True, help="folder for tokens, checkpoints and the package")
    parser.add_argument("--config", type=Path, help="YAML with fields of PretrainConfig")
    parser.add_argument("--num-processes", type=int, default=1, help="data-parallel processes or GPUs")
    parser.add_argument("--precision", default="bf16-mixed", help="Lightning's precision")
    parser.add_argument("--stages", nargs="+", help="main, round1, ..., shallow, twin, package; all by default")
    parser.add_argument("--training-time", default="time not stated", help="said in the model card")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    config = PretrainConfig(**(yaml.safe_load(arguments.config.read_text()) if arguments.config else {}))
    arguments.out.mkdir(parents=True, exist_ok=True)

    documents = load_documents(arguments.text)
    tokenizer = make_tokenizer(documents, config, arguments.out)
    train = load_or_encode(documents, "train", tokenizer, arguments.out)
    held_out = load_or_encode(documents, "evaluate", tokenizer, arguments.out)
    stages, own_stages = stage_configs(config), own_stage_names(config)
    for name, stage_config in stages.items():
        run = arguments.out / name
        if (run / "model").exists() or (arguments.stages is not None and name not in arguments.stages):
            continue
        streams, initial = train, None
        if name in own_stages[1:]:
            before = own_stages[own_stages.index(name) - 1]
            initial = LlamaForCausalLM.from_pretrained(arguments.out / before / "model", dtype=torch.float32)
            if OWN in stage_config.shares:
                streams = train | {OWN: load_or_write(initial, tokenizer, documents, stage_config, run)}
        model = pretrain(stage_config, streams, held_out, run, arguments.num_processes, arguments.precision, initial)
        if torch.distributed.is_initialized() and torch.distributed.get_rank() > 0:
            return
        model.save_pretrained(run / "model")
    if arguments.stages is None or "package" in arguments.stages:
        package(arguments.out, config, documents, arguments.training_time)


def own_stage_names(config: PretrainConfig) -> list[str]:
    """The stages of the model that ships, in order; the others train what it is compared with."""
    return ["main", *(f"round{number}" for number in range(1, len(config.rounds) + 1))]


def make_tokenizer(documents: list[Document], config: PretrainConfig, out: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of the run, trained where it is not there yet."""
    folder = out / "tokenizer"
    if not folder.exists():
        train_tokenizer(documents, config.vocab_size, config.max_position_embeddings).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def stage_configs(config: PretrainConfig) -> dict[str, PretrainConfig]:
    """The model, and the two it is compared with at an equal, reduced number of tokens."""
    quarter = config.num_layers // 4
    shallow = dataclasses.replace(
        config,
        num_layers=quarter,
        exit_loss_weight=0.0,
        exit_layers=tuple(range(1, quarter)),
        num_tokens=config.comparison_tokens,
        decay_share=0.0,
    )
    twin = dataclasses.replace(config, exit_loss_weight=0.0, num_tokens=config.twin_tokens, decay_share=0.0)
    rounds = (dataclasses.replace(config, **changes) for changes in config.rounds)
    own = dict(zip(own_stage_names(config), (config, *rounds), strict=True))
    return {**own, "shallow": shallow, "twin": twin}


def package(out: Path, config: PretrainConfig, documents: list[Document], training_time: str) -> None:
    """Writes OUT/package: the folder `demo_model` and the demonstration prompts, as they ship."""
    folder = out / "package" / "demo_model"
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(out / "tokenizer")
    tokenizer.save_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(out / own_stage_names(config)[-1] / "model", dtype=torch.float16)
    model.save_pretrained(folder)
    (folder / "training.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(config)))))
    for stage in own_stage_names(config):
        for number, file in enumerate(sorted((out / stage / "curve").glob("version_*/metrics.csv"))):
            shutil.copy(file, folder / f"training_curve_{stage}_{number}.csv")
    prompts = {}
    for split, number in NUM_PROMPTS_PER_KIND.items():
        prompts[split] = cut_prompts(documents, split, number, seed=0)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in prompts[split])
        (out / "package" / f"demo_prompts_{split}.jsonl").write_text(lines)
    model = model.float().eval()
    held_out = load_or_encode(documents, "evaluate", tokenizer, out)
    losses = held_out_losses(model, held_out, config.sequence_length)
    text = continuations(model, tokenizer, prompts["evaluate"])
    num_prompts = len(prompts["evaluate"])
    write_card(folder / "README.md", out, config, model, losses, text, num_prompts, training_time)


if __name__ == "__main__":
    main()
