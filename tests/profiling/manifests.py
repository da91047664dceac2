"""The manifest of a small made-up log."""

from specbound_profiling.log.manifest import Manifest
from specbound_profiling.log.trace import DEFAULT_TEMPERATURES

MANIFEST = Manifest(
    model="tiny",
    model_fingerprint="f" * 64,
    num_layers=6,
    vocab_size=100,
    eos_token_ids=(9,),
    prompts="prompts.jsonl",
    prompts_hash="a" * 64,
    num_prompts=5,
    shard_prompts=2,
    exit_layers=(1, 3),
    temperatures=DEFAULT_TEMPERATURES,
    compressions=("none",),
    max_new_tokens=64,
    seed=0,
)
