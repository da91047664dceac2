"""Greedy text of the model's own, for on-policy distillation of its exits: training prompts and what it says next."""

from pathlib import Path

import numpy as np
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from specbound_profiling.prompts.loops import loop_cut
from specbound_train.demo.corpus import KINDS, Document, cut_prompts
from specbound_train.demo.pretrain import PretrainConfig

NUM_NEW_TOKENS = 96
PROMPTS_PER_CALL = 64


def load_or_write(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    documents: list[Document],
    config: PretrainConfig,
    run: Path,
) -> np.ndarray:
    """`own_text` of a round, kept in its folder between runs and processes."""
    path = run / "own_text.npy"
    if not path.exists():
        run.mkdir(parents=True, exist_ok=True)
        rows = cut_prompts(documents, "train", config.num_own_prompts // len(KINDS), config.seed)
        partial = path.with_suffix(".partial.npy")
        np.save(partial, own_text(model, tokenizer, [row["prompt"] for row in rows], config.seed))
        partial.rename(path)
    return np.load(path, mmap_mode="r")


@torch.inference_mode()
def own_text(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: list[str], seed: int) -> np.ndarray:
    """One uint16 stream: every prompt with its greedy continuation, cut where it loops, and the end-of-text token."""
    encoded = sorted((tokenizer(prompt)["input_ids"] for prompt in prompts), key=len)
    pieces: list[list[int]] = []
    for first in range(0, len(encoded), PROMPTS_PER_CALL):
        rows = encoded[first : first + PROMPTS_PER_CALL]
        length = max(map(len, rows))
        ids = torch.tensor([[tokenizer.pad_token_id] * (length - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
        output = model.generate(ids, attention_mask=mask, max_new_tokens=NUM_NEW_TOKENS, do_sample=False)
        for row, new in zip(rows, output[:, length:].tolist(), strict=True):
            said = new[: new.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in new else new
            pieces.append([*row, *said[: loop_cut(said)], tokenizer.eos_token_id])
    order = np.random.default_rng(seed).permutation(len(pieces))
    return np.fromiter((token for index in order for token in pieces[index]), dtype=np.uint16)
