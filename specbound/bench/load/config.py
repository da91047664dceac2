"""The config of `specbound bench-serve`. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass

from specbound.exits.option import ExitsOption
from specbound.models.names import is_gguf_name
from specbound.serve.config import ServeConfig
from specbound_controller.errors import InputError, require_at_least, require_one_of

SERVERS = ("specbound", "plain", "transformers", "transformers_batching")
"""`specbound serve`; the same without drafts; `transformers serve`; the same with its continuous batching."""

DTYPES = {"none": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Compression -> what transformers calls it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadConfig(ExitsOption):
    """Times servers side by side on one model: specbound serve with drafts and without, transformers serve with its
    continuous batching and without. Clients stream answers, one, two, four and eight at a time. Every measurement is
    written at once; the same command goes on with what is missing."""

    out: str
    """Folder for what was measured; one that holds an unfinished run of the same settings is gone on with."""
    model: str = "demo"
    """demo, smollm2, a folder, or a Hugging Face name."""
    controller: str | None = None
    """demo, a folder that train-controller wrote, a Hugging Face name, or none. By default demo for the demo model
    only."""
    policy: str = "auto"
    """Who drafts, as for serve."""
    compression: str = "none"
    """How the weights are held: none, bf16 or fp16."""
    servers: tuple[str, ...] = SERVERS
    """Those to time: specbound, plain (specbound without drafts), transformers, transformers_batching."""
    clients: tuple[int, ...] = (1, 2, 4, 8)
    """How many ask at a time, each for its next answer once it has one."""
    prompts: str = "demo:evaluate"
    """demo:evaluate, FILE.jsonl, Spec-Bench's question.jsonl:evaluation, or hf:NAME[:split[:column]]."""
    raw: bool = False
    """Hand prompts over as they stand. Otherwise they are sent as chats, where the tokenizer has a chat template."""
    num_prompts: int = 16
    """Answers of one measurement, at least as many as clients."""
    max_new_tokens: int = 64
    """Most tokens of an answer, at least 8."""
    rounds: int = 3
    """Times that every server meets every number of clients, in turn; at least 1."""
    minutes: float = 20.0
    """Most minutes of this call, the servers' start included; what runs then is measured by the next call."""
    threads: int = 1
    """CPU threads of each server."""
    json: str | None = None
    """File for the results as JSON; - is standard output, where the table is left out."""

    def __post_init__(self) -> None:
        require_at_least(1, rounds=self.rounds, threads=self.threads, num_prompts=self.num_prompts)
        require_at_least(8, max_new_tokens=self.max_new_tokens)
        if self.compression not in DTYPES:
            raise InputError(
                f"compression must be one of {', '.join(DTYPES)}, which all servers hold alike, got {self.compression}"
            )
        for name in self.servers:
            require_one_of(SERVERS, servers=name)
        for option, values in (("servers", self.servers), ("clients", self.clients)):
            if not values or len(set(values)) < len(values):
                raise InputError(f"{option} must name one or several, none twice, got {','.join(map(str, values))}")
        require_at_least(1, clients=min(self.clients))
        if max(self.clients) > self.num_prompts:
            raise InputError(f"clients must be at most num_prompts, {self.num_prompts}, got {max(self.clients)}")
        if not self.minutes > 0:
            raise InputError(f"minutes must be above 0, got {self.minutes}")
        if is_gguf_name(self.model):
            raise InputError(f"model must be no GGUF file, which specbound convert makes a folder of, got {self.model}")
        self.serving(0, True)  # refuses what serve refuses

    def serving(self, port: int, has_drafts: bool) -> ServeConfig:
        """Of our server; no answer is continued from an earlier one's cache, as the others cannot."""
        own = {"exits": self.exits, "controller": self.controller, "policy": self.policy} if has_drafts else {}
        return ServeConfig(
            **{"policy": "plain", **own},  # type: ignore[arg-type]
            model=self.model,
            compression=self.compression,
            threads=self.threads,
            port=port,
            served_name=self.model,
            max_batch=max(self.clients),
            max_new_tokens=self.max_new_tokens,
            prefix_cache_mib=0,
        )
