"""What sampling costs a position beside the model: a measurement of `specbound.bench.micro`."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from specbound.bench.micro.timing import interleaved
from specbound.decoding.request import Request
from specbound.decoding.sequence import Sequence as DecodedSequence

# V vocabulary

SPREAD = 3.0
"""Standard deviation of the random logits, about a language model's."""


@torch.inference_mode()
def sampling(vocab_sizes: Sequence[int] = (4096, 49152), temperature: float = 0.7, num_rounds: int = 60) -> None:
    """Microseconds in which a sampled position's draft is chosen, and its token at verification, by random logits.

    Processors and noise; the verification's noise is that of the draft where the code keeps it.
    """
    print("| vocabulary V | settings | draft | verification after it | verification alone |\n|---|---|---|---|---|")
    warmth = TemperatureLogitsWarper(temperature)
    settings = {
        f"temperature {temperature:g}": [warmth],
        f"temperature {temperature:g}, top-k 50": [warmth, TopKLogitsWarper(50)],
        f"temperature {temperature:g}, top-p 0.95": [warmth, TopPLogitsWarper(0.95)],
    }
    for vocab_size in vocab_sizes:
        logits = torch.randn(1, vocab_size, generator=torch.Generator().manual_seed(0)) * SPREAD
        for name, processors in settings.items():
            position = _Position(logits, LogitsProcessorList(processors), 8 * num_rounds + 8)
            calls: dict[str, Callable[[], object]] = {
                "draft": position.draft,
                "after": position.verify,
                "alone": position.verify,
            }
            cells = " | ".join(f"{seconds * 1e6:.0f} µs" for seconds in interleaved(calls, num_rounds).values())
            print(f"| {vocab_size:,} | {name} | {cells} |", flush=True)


class _Position:
    """A sequence that goes on by the same logits again and again. logits: (1, V)"""

    def __init__(self, logits: Tensor, processors: LogitsProcessorList, most: int) -> None:
        request = Request((1,), most, processors=processors, do_sample=True)
        self.logits, self.sequence = logits, DecodedSequence(request, logits.device)

    def draft(self) -> None:
        self.sequence.draft_token(self.logits, [])

    def verify(self) -> None:
        self.sequence.commit_token(self.logits)
