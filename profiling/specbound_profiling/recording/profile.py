"""The profiling stage: prompts in, a step log with its cost tables out, and a verdict by replay.

Goes on where an earlier, equal run stopped, and ends with the same files as one that was not disturbed.
"""

import logging
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from specbound.decoding.model.adapter import ModelAdapter
from specbound.exits.trained import new_adapter, with_exits
from specbound.models.fingerprint import model_fingerprint
from specbound.models.loading import LoadedModel, has_chat_template, load_model, require_compression
from specbound.stores.bigrams import local_bigrams, read_bigrams
from specbound.stores.own_text import load_own_text
from specbound_controller.costs import CostTable
from specbound_controller.draft_vocabulary import DraftVocabulary, describe
from specbound_controller.errors import InputError
from specbound_controller.figures import share
from specbound_controller.sources.stores import Stores
from specbound_profiling.costs.machine import machine_fingerprint
from specbound_profiling.costs.measure import TOKENS_PER_PROMPT, measure_costs
from specbound_profiling.log.manifest import Manifest, read_costs, read_manifest
from specbound_profiling.log.store import LogWriter, StepLog, open_log, refuse_foreign
from specbound_profiling.log.stores import FOLDER, checksums, write_log_stores
from specbound_profiling.progress import RecordingBar, status
from specbound_profiling.prompts.files import Prompt, load_prompts, prompts_hash
from specbound_profiling.prompts.tokenization import tokenize_prompts
from specbound_profiling.recording.blocks import LOCAL, Block, Engine, Recording
from specbound_profiling.recording.config import ProfileConfig
from specbound_profiling.recording.engine import record_shards, require_engine
from specbound_profiling.recording.frequent_tokens import frequent_tokens
from specbound_profiling.recording.rollout import RolloutSettings
from specbound_profiling.recording.settings import RecordSettings
from specbound_profiling.replay.verdict import Verdict, verdict
from specbound_profiling.versions import versions_of

logger = logging.getLogger(__name__)
PACKAGES = ("specbound", "torch", "transformers", "bitsandbytes", "numpy", "pyarrow")
"""Whose versions a manifest names."""
NO_STORES = Stores()
NUM_COST_PROMPTS = 12
"""Prompts that the cost table is measured on."""


@dataclass(frozen=True, slots=True)
class ProfileSummary:
    """What a run has written, and what it promises."""

    out: Path
    """The log directory."""
    verdicts: tuple[Verdict, ...]
    """One for each compression level."""
    coverage: str = ""
    """How much of what the model wrote a draft vocabulary holds, in words; empty where exits read all tokens."""

    def __str__(self) -> str:
        return "\n".join([*map(str, self.verdicts), *filter(None, [self.coverage]), f"log: {self.out}"])


Pricing = Callable[[LoadedModel, str, DraftVocabulary | None, int, Callable[[], CostTable]], CostTable]
"""Gives a model's cost table at an exactness, for exits that read these tokens (None is all) and so many steps; the
last argument measures one."""


def measured_anew(
    loaded: LoadedModel,
    exactness: str,
    vocabulary: DraftVocabulary | None,
    num_steps: int,
    measure: Callable[[], CostTable],
) -> CostTable:
    """A table of its own for every log."""
    return measure()


def profile(config: ProfileConfig, pricing: Pricing = measured_anew) -> ProfileSummary:
    """Records all prompts at all compression levels, prices their work, replays. Raises InputError for bad input."""
    root = Path(config.out).expanduser()
    refuse_foreign(root, config.resume)
    for compression in config.compression:
        require_compression(compression)
    require_engine(config.engine)
    engine = Engine(config.engine, config.num_workers, config.model)
    prompts = load_prompts(config.prompts, config.num_prompts)
    writer: LogWriter | None = None
    for compression in config.compression:
        loaded = with_exits(load_model(config.model, compression, config.device), config.exits)
        adapter = new_adapter(loaded)
        prompt_ids = tokenize_prompts(
            prompts, loaded, adapter, config.max_new_tokens, config.raw, config.exactness_of(compression)
        )
        if writer is None:
            vocabulary = _draft_vocabulary(config, root, adapter, prompt_ids)
            stores, rates = _stores(config, root, loaded)
            manifest = new_manifest(config, prompts, loaded, adapter, vocabulary, stores)
            writer = LogWriter(root, manifest, config.resume)
            if not (root / FOLDER).exists():
                write_log_stores(root, stores, manifest.model_fingerprint, rates)
        record_missing(writer, adapter, prompts, prompt_ids, compression, engine)
        if not _has_own_costs(root, compression, machine_fingerprint(adapter.device)):
            exactness, vocabulary = writer.manifest.exactness_of(compression), writer.manifest.drafted_tokens()
            measure = partial(
                measure_costs,
                loaded,
                _cost_prompts(prompt_ids, adapter),
                config.num_cost_steps,
                config.seed,
                exit_layers=writer.manifest.exit_layers,
                exactness=exactness,
                draft_vocabulary=vocabulary,
            )
            with status(f"{compression}: what work costs here"):
                table = pricing(loaded, exactness, vocabulary, config.num_cost_steps, measure)
            writer.write_costs(compression, table)
        del loaded, adapter
    assert writer is not None  # a config names at least one level
    verdicts = [_verdict(writer, compression, config.w_max) for compression in config.compression]
    return ProfileSummary(root, tuple(verdicts), _coverage(open_log(root)))


def _coverage(log: StepLog) -> str:
    """What `ProfileSummary.coverage` says, over all levels together."""
    manifest, vocabulary = log.manifest, log.manifest.drafted_tokens()
    if vocabulary is None:
        return ""
    counts = np.zeros(manifest.vocab_size, dtype=np.int64)
    for compression in manifest.compressions:
        for traces in log.iter_shards(compression):
            counts += np.bincount(np.concatenate([trace.tokens for trace in traces]), minlength=manifest.vocab_size)
    return (
        f"draft vocabulary: {len(vocabulary):,} of {manifest.vocab_size:,} tokens, which are "
        f"{share(vocabulary.share(counts), 1)} of what the model wrote"
    )


def _verdict(writer: LogWriter, compression: str, w_max: int) -> Verdict:
    """A finished level's verdict; its counts go into the manifest."""
    log = open_log(writer.root)
    result = verdict(log.iter_shards(compression), log.costs[compression], log.manifest.num_layers, w_max)
    result = replace(result, exactness=log.manifest.exactness_of(compression))
    counts = {
        "num_prompts": result.num_prompts,
        "num_positions": result.num_positions,
        "num_loops_cut": result.num_loops_cut,
        "num_eos_ends": result.num_eos_ends,
    }
    writer.write_counts(compression, counts)
    return result


def _has_own_costs(root: Path, compression: str, machine: str) -> bool:
    """Whether the log holds the level's costs on this machine; those of another one are a logged reason to measure."""
    table = read_costs(root).get(compression)
    if table is not None and table.machine != machine:
        logger.warning("%s: costs are from (%s), not (%s); measured again", compression, table.machine, machine)
    return table is not None and table.machine == machine


def _cost_prompts(prompt_ids: Sequence[Tensor], adapter: ModelAdapter) -> list[Tensor]:
    """Some prompts, shortened where the model has no room for the steps to time."""
    room = None if adapter.max_positions is None else max(1, adapter.max_positions - TOKENS_PER_PROMPT)
    return [ids if room is None else ids[:, :room] for ids in prompt_ids[:NUM_COST_PROMPTS]]


def _stores(config: ProfileConfig, root: Path, loaded: LoadedModel) -> tuple[Stores, dict[str, list[float]]]:
    """What draft trees of this model draw from, with bigrams of the log that is gone on with, and counted rates."""
    fingerprint = model_fingerprint(loaded.model)
    own_text, rates = None, dict[str, list[float]]()
    if config.own_text is not None:
        own_text, rates = load_own_text(Path(config.own_text).expanduser(), fingerprint)
    try:
        bigrams = read_bigrams(root / FOLDER / "bigrams", fingerprint)
    except InputError:  # a new log; one of another model is refused when its manifest is compared
        bigrams = local_bigrams(loaded.model, logger.info)
    return Stores(bigrams, own_text), rates


def _draft_vocabulary(
    config: ProfileConfig, root: Path, adapter: ModelAdapter, prompt_ids: Sequence[Tensor]
) -> DraftVocabulary | None:
    """What exits read: all tokens, those of trained exits, those of the run that is gone on with, or the most
    frequent ones."""
    if adapter.exits is not None:
        return adapter.exits.vocabulary
    size = config.draft_vocabulary
    if size == "all":
        return None
    if (root / "manifest.json").exists():
        kept = read_manifest(root).drafted_tokens()
        if kept is None or len(kept) != size:
            raise InputError(
                f"out holds another run: its exits read {describe(kept)}, draft_vocabulary is {size} here ({root}); "
                "choose another folder"
            )
        return kept
    with status("counting the most frequent tokens"):
        return frequent_tokens(adapter, prompt_ids, size, config.max_new_tokens, config.generate_arguments())


def new_manifest(
    config: ProfileConfig,
    prompts: Sequence[Prompt],
    loaded: LoadedModel,
    adapter: ModelAdapter,
    vocabulary: DraftVocabulary | None = None,
    stores: Stores = NO_STORES,
) -> Manifest:
    """What a run will record. vocabulary: what its exits read; None is all tokens. stores: what trees draw from."""
    rollout_width = config.w_max if config.rollout_width is None else config.rollout_width
    return Manifest(
        model=config.model,
        model_fingerprint=model_fingerprint(loaded.model),
        num_layers=adapter.num_layers,
        vocab_size=adapter.vocab_size,
        eos_token_ids=tuple(sorted(adapter.eos_token_ids)),
        prompts=config.prompts,
        prompts_hash=prompts_hash(prompts),
        num_prompts=len(prompts),
        shard_prompts=config.shard_prompts,
        exit_layers=config.exits_for(adapter.num_layers, adapter.exits.exit_layers if adapter.exits else ()),
        temperatures=config.temperatures,
        compressions=config.compression,
        max_new_tokens=config.max_new_tokens,
        seed=config.seed,
        sampling=config.generate_arguments(),
        exactness={level: config.exactness_of(level) for level in config.compression},
        rollout_rate=config.rollout_rate,
        rollout_width=rollout_width,
        versions={"python": platform.python_version(), **versions_of(PACKAGES)},
        stores=checksums(stores),
        is_chat=has_chat_template(loaded) and not config.raw,
        draft_vocabulary=None if vocabulary is None else tuple(vocabulary.ids.tolist()),
        exits="" if vocabulary is None else vocabulary.exits,
        num_drafts=rollout_width if adapter.exits is not None and adapter.exits.shape.reads_state else 1,
    )


def record_settings(manifest: Manifest) -> RecordSettings:
    """What a run's manifest asks to record."""
    return RecordSettings(
        exit_layers=manifest.exit_layers,
        max_new_tokens=manifest.max_new_tokens,
        eos_token_ids=manifest.eos_token_ids,
        temperatures=manifest.temperatures,
        sampling=manifest.sampling,
        rollouts=RolloutSettings(manifest.rollout_rate, manifest.rollout_width, manifest.seed),
        num_drafts=manifest.num_drafts,
        draft_vocabulary=manifest.drafted_tokens(),
    )


def record_missing(
    writer: LogWriter,
    adapter: ModelAdapter,
    prompts: Sequence[Prompt],
    prompt_ids: Sequence[Tensor],
    compression: str,
    engine: Engine = LOCAL,
) -> None:
    """Writes the shards that are missing."""
    manifest = writer.manifest
    size = manifest.shard_prompts
    missing = [shard for shard in range(manifest.num_shards) if not writer.is_written(compression, shard)]
    if not missing:
        return
    blocks = []
    for shard in missing:
        rows = slice(shard * size, min((shard + 1) * size, len(prompts)))
        blocks.append(Block(shard, rows.start, tuple(prompts[rows]), tuple(prompt_ids[rows])))
    num_left = sum(len(block.prompts) for block in blocks)
    recording = Recording(
        model_fingerprint=manifest.model_fingerprint,
        compression=compression,
        exactness=manifest.exactness_of(compression),
        settings=record_settings(manifest),
    )
    with RecordingBar(f"{compression}: recording", num_left, manifest.max_new_tokens) as bar:
        record_shards(engine, adapter, recording, blocks, partial(writer.write_shard, compression), bar)
