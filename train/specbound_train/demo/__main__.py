"""`python -m specbound_train.demo --text DIR --out DIR`: trains the demonstration model, from texts to checkpoint."""

import argparse
import dataclasses
import logging
from pathlib import Path

import yaml
from transformers import AutoTokenizer

from specbound_train.demo.corpus import load_documents
from specbound_train.demo.pretrain import PretrainConfig, pretrain
from specbound_train.demo.tokens import load_or_encode, train_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m specbound_train.demo", description=__doc__)
    parser.add_argument("--text", type=Path, required=True, help="folder with the sources of text_manifest.json")
    parser.add_argument("--out", type=Path, required=True, help="folder for tokens, checkpoints and the model")
    parser.add_argument("--config", type=Path, help="YAML with fields of PretrainConfig")
    parser.add_argument("--num-processes", type=int, default=1, help="data-parallel processes or GPUs")
    parser.add_argument("--precision", default="bf16-mixed", help="Lightning's precision")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    config = PretrainConfig(**(yaml.safe_load(arguments.config.read_text()) if arguments.config else {}))
    arguments.out.mkdir(parents=True, exist_ok=True)

    documents = load_documents(arguments.text)
    tokenizer_dir = arguments.out / "tokenizer"
    if not tokenizer_dir.exists():
        train_tokenizer(documents, config.vocab_size, config.max_position_embeddings).save_pretrained(tokenizer_dir)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    train = load_or_encode(documents, "train", tokenizer, arguments.out)
    held_out = load_or_encode(documents, "evaluate", tokenizer, arguments.out)
    model = pretrain(config, train, held_out, arguments.out, arguments.num_processes, arguments.precision)
    model.config.dtype = "float16"
    model.half().save_pretrained(arguments.out / "model")
    tokenizer.save_pretrained(arguments.out / "model")
    (arguments.out / "model" / "training.yaml").write_text(yaml.safe_dump(dataclasses.asdict(config)))


if __name__ == "__main__":
    main()
