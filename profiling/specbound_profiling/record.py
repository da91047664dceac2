"""Records one prompt while the model decodes it: the full model's own continuation, and what every exit would draft.

The tokens are plain decoding's: the full model's head is read one row at a time, as in the decoder. The exits' heads
are read afterwards, many rows in one matrix product, since nothing waits for them; such rows differ from the
decoder's single ones by rounding. Knows no policy and no file.
"""

# P positions, E exit layers, K temperatures, V vocabulary, D hidden width, R rows (positions x exits)

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from specbound.decoding.adapter import ModelAdapter
from specbound.decoding.signals import logit_statistics
from specbound_profiling.loops import LoopDetector
from specbound_profiling.trace import DEFAULT_TEMPERATURES, PromptTrace

MAX_LOGITS = 1 << 22
"""Most logits that are held at once; bounds the memory at any vocabulary."""


@torch.inference_mode()
def record_continuation(
    adapter: ModelAdapter,
    prompt_ids: Tensor,
    exit_layers: Sequence[int],
    max_new_tokens: int,
    eos_token_ids: Iterable[int] | None = None,
    temperatures: tuple[float, ...] = DEFAULT_TEMPERATURES,
    on_token: Callable[[], None] | None = None,
) -> PromptTrace:
    """Decodes greedily and records every position.

    Args:
        prompt_ids: (1, T) int64.
        exit_layers: layers to read the head after, each in [1, L - 1].
        eos_token_ids: tokens that end the continuation; None takes the model's own.
        on_token: called after every token.

    Returns:
        The trace, cut where it begins to loop; its id, task and compression are for the caller to set.
    """
    exits = tuple(sorted(exit_layers))
    eos = frozenset(adapter.eos_token_ids if eos_token_ids is None else eos_token_ids)
    recorder = _Recorder(adapter, temperatures, max(1, MAX_LOGITS // (adapter.vocab_size * (len(exits) + 1))))
    prompt_length, tokens, detector, cut = prompt_ids.shape[1], [], LoopDetector(), None
    cache = adapter.new_cache(capacity=prompt_length + max_new_tokens)
    inputs, position = prompt_ids.to(adapter.device), 0
    while True:
        hidden, states = adapter.embed(inputs, position), []
        for first, last in zip((0, *exits), (*exits, adapter.num_layers), strict=True):
            hidden = adapter.run_layers(hidden, first, last, cache, position)
            states.append(hidden[:, -1:])
        logits = adapter.read_head(states[-1])[0]
        token = int(logits.argmax(-1))
        tokens.append(token)
        recorder.add(states[:-1], logits, token)
        cut = detector.add(token)
        if on_token is not None:
            on_token()
        if cut is not None or token in eos or len(tokens) == max_new_tokens:
            break
        position += inputs.shape[1]
        inputs = torch.tensor([[token]], device=adapter.device)
    columns = recorder.columns()
    length = len(tokens) if cut is None else cut
    return PromptTrace(
        prompt_id="",
        task="all",
        compression="none",
        prompt_length=prompt_length,
        tokens=np.array(tokens[:length], dtype=np.int64),
        exit_layers=exits,
        temperatures=temperatures,
        **{name: values[:length] for name, values in columns.items()},
        is_final_eos=cut is None and tokens[-1] in eos,
        is_loop_cut=cut is not None,
        token_limit=max_new_tokens,
        eos_token_ids=tuple(sorted(eos)),
    )


@dataclass(slots=True)
class _Recorder:
    """Collects hidden states and reads the exits' heads `block` positions at a time."""

    adapter: ModelAdapter
    temperatures: tuple[float, ...]
    block: int
    states: list[Tensor] = field(default_factory=list)
    """Exits' hidden states of positions not read yet, (1, E, D) each."""
    full_logits: list[Tensor] = field(default_factory=list)
    """(1, V) each."""
    tokens: list[int] = field(default_factory=list)
    parts: list[dict[str, np.ndarray]] = field(default_factory=list)

    def add(self, states: Sequence[Tensor], full_logits: Tensor, token: int) -> None:
        """Takes the exits' hidden states (1, 1, D) of a position, the full model's logits (1, V) and its token."""
        self.states.append(torch.cat(list(states), dim=1))
        self.full_logits.append(full_logits)
        self.tokens.append(token)
        if len(self.states) == self.block:
            self._read()

    def _read(self) -> None:
        num_positions, num_exits = len(self.states), self.states[0].shape[1]
        logits = self.adapter.read_head(torch.cat(self.states, dim=1))[0].float()
        labels = torch.tensor(self.tokens, device=logits.device).repeat_interleave(num_exits)
        part = exit_columns(logits, labels, self.temperatures)
        part = {name: values.reshape(num_positions, num_exits, *values.shape[1:]) for name, values in part.items()}
        full = logit_statistics(torch.cat(self.full_logits))
        part |= {f"full_{name}": getattr(full, name).cpu().numpy() for name in ("confidence", "entropy_nats", "margin")}
        self.parts.append(part)
        self.states, self.full_logits, self.tokens = [], [], []

    def columns(self) -> dict[str, np.ndarray]:
        """The arrays of the trace."""
        if self.states:
            self._read()
        return {name: np.concatenate([part[name] for part in self.parts]) for name in self.parts[0]}


def exit_columns(logits: Tensor, labels: Tensor, temperatures: Sequence[float]) -> dict[str, np.ndarray]:
    """A trace's columns of exits, for greedy drafts. logits: (R, V) float32, labels: (R,) full model tokens."""
    statistics = logit_statistics(logits)
    top, label = logits.amax(-1), logits.gather(-1, labels[:, None])[:, 0]
    confidence_at, label_nll_at = [], []
    for temperature in temperatures:
        log_normaliser = (logits / temperature).logsumexp(-1)
        confidence_at.append((top / temperature - log_normaliser).exp())
        label_nll_at.append(log_normaliser - label / temperature)
    columns = {
        "draft_token": statistics.top_token,
        "is_accepted": statistics.top_token == labels,
        "confidence": statistics.confidence,
        "entropy_nats": statistics.entropy_nats,
        "margin": statistics.margin,
        "noised_margin": statistics.margin,
        "draft_probability": statistics.confidence,
        "confidence_at": torch.stack(confidence_at, dim=-1),
        "label_nll_at": torch.stack(label_nll_at, dim=-1),
    }
    return {name: values.cpu().numpy() for name, values in columns.items()}
