"""The config of `specbound serve`. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass
from pathlib import Path

from specbound.exits.option import ExitsOption
from specbound.generation.config import GenerateConfig
from specbound.models.names import is_gguf_name
from specbound_controller.errors import InputError, require_at_least, require_one_of


@dataclass(frozen=True, slots=True)
class ServeConfig(ExitsOption):
    """Serves a model with OpenAI's API; the output is plain decoding's."""

    model: str = "demo"
    """demo, smollm2, a folder, a Hugging Face name, or a GGUF file."""
    controller: str | None = None
    """demo, a folder that train-controller wrote, a Hugging Face name, or none. By default demo for the demo model
    only."""
    policy: str = "auto"
    """Who drafts, as for generate: auto, plain, a folder that specbound fit wrote, a tree by name, a guarded fixed
    setting such as static:lookup0.5+exit4,width2, or a class of your own, module:Class."""
    own_text: str | None = None
    """Folder that specbound write left for this model: its habits are one more source of a tree."""
    compression: str = "none"
    """How the weights are held: none, bf16, fp16, int8 or nf4."""
    costs: str = "auto"
    """What work costs here: auto (the controller's table if it is from this machine, else measured once, about 30 s),
    or a log's costs.json."""
    exactness: str = "token"
    """What the output equals: token (plain decoding's, rounding aside) or bitwise (plain decoding's at this level,
    whatever runs beside it)."""
    compile: bool = False
    """On a GPU, at exactness token: capture the layers' work as CUDA graphs, which are launched at once."""
    threads: int = 1
    """CPU threads of the model."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is every one of this machine: give an api_key then."""
    port: int = 8000
    """Port to listen on; 0 takes a free one and says which."""
    served_name: str | None = None
    """What clients call the model; by default the last part of its name."""
    api_key: str | None = None
    """Key that clients must send. Other users of this machine can read it off the command line: see api_key_file."""
    api_key_file: str | None = None
    """File with the key in its first line."""
    max_batch: int = 8
    """Most answers that are decoded side by side."""
    max_queue: int = 64
    """Most answers that wait for a place; beyond it clients are told to come back."""
    max_prompt_tokens: int | None = None
    """Longest prompt in tokens; by default what the model's positions allow."""
    max_new_tokens: int = 1024
    """Longest answer in tokens."""
    max_seconds: float = 600.0
    """An answer that takes longer, its wait included, ends with what there is."""
    max_body_kib: int = 1024
    """Largest request in KiB."""
    cache_mib: int | None = None
    """Memory for keys and values of everything at once: a request that can never fit is refused, one that does not fit
    beside those that run waits. By default half of what is free once the model is loaded."""
    prefix_cache_mib: int = 256
    """Part of it for the caches of finished answers, which conversations continue from; 0 keeps none, as does
    bitwise."""
    drain_seconds: float = 30.0
    """How long running answers may go on once the server is told to stop."""
    engine: str = "local"
    """local: one model in this process; ray: replicas on a Ray cluster, of RAY_ADDRESS or of this machine, with a GPU
    each where there are some (needs the extra ray)."""
    replicas: int | None = None
    """With engine ray: how many models are loaded; 1 by default."""

    def __post_init__(self) -> None:
        require_at_least(
            1,
            max_batch=self.max_batch,
            max_new_tokens=self.max_new_tokens,
            max_body_kib=self.max_body_kib,
            max_prompt_tokens=self.max_prompt_tokens if self.max_prompt_tokens is not None else 1,
            cache_mib=self.cache_mib if self.cache_mib is not None else 1,
        )
        require_at_least(0, max_queue=self.max_queue, prefix_cache_mib=self.prefix_cache_mib)
        if not 0 <= self.port <= 65535:
            raise InputError(f"port must be in [0, 65535], got {self.port}")
        if not self.max_seconds > 0 or not self.drain_seconds >= 0:
            raise InputError(
                f"max_seconds must be > 0 and drain_seconds >= 0, got {self.max_seconds} and {self.drain_seconds}"
            )
        if self.api_key is not None and self.api_key_file is not None:
            raise InputError("api_key and api_key_file must not be given together")
        require_one_of(("local", "ray"), engine=self.engine)
        if self.replicas is not None and (self.engine == "local" or self.replicas < 1):
            raise InputError(f"replicas must be >= 1 and needs engine ray, got {self.replicas}, {self.engine}")
        self.generation()  # refuses what generate refuses

    def generation(self) -> GenerateConfig:
        """What loads the model and whoever drafts for it."""
        return GenerateConfig(
            prompt="-",
            model=self.model,
            exits=self.exits,
            controller=self.controller,
            policy=self.policy,
            own_text=self.own_text,
            compression=self.compression,
            costs=self.costs,
            exactness=self.exactness,
            compile=self.compile,
            threads=self.threads,
        )

    @property
    def name(self) -> str:
        """What clients call the model: no path of this machine unless it is asked for."""
        if self.served_name is not None:
            return self.served_name
        if Path(self.model).expanduser().exists() or is_gguf_name(self.model):
            return Path(self.model).expanduser().resolve().name
        return self.model
