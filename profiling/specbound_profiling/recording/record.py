"""Records one prompt while the model decodes it: the full model's own continuation, and what every exit would draft.

The tokens are plain decoding's, chosen by the decoder's own code: prompts run on the model's own kernels, steps on
those of the level of exactness, and the full model's head is read one row at a time. Knows no policy and no file.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from specbound.decoding.arguments import batch_from_arguments
from specbound.decoding.greedy_twin import greedy_twin
from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.request import Request
from specbound.decoding.sequence import Sequence as DecodedSequence
from specbound.decoding.step_model import step_adapter
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.prompts.loops import LoopDetector
from specbound_profiling.recording.exit_reader import ExitReader
from specbound_profiling.recording.rollout import run_exits
from specbound_profiling.recording.settings import RecordSettings


class Recorder:
    """Records prompts with one model."""

    def __init__(self, adapter: ModelAdapter, settings: RecordSettings, exactness: str = "token") -> None:
        """Raises `UnsupportedModelError` where the model cannot be run at this exactness here."""
        self.adapter, self.settings = adapter, settings
        self.step_adapter = step_adapter(adapter, exactness)
        self._greedy = greedy_twin(adapter.model)

    @torch.inference_mode()
    def record(self, prompt_ids: Tensor, index: int = 0, on_token: Callable[[], None] | None = None) -> PromptTrace:
        """Decodes a prompt and records every position.

        Args:
            prompt_ids: (1, T) int64.
            index: number of the prompt, from which its seeds follow.
            on_token: called after every token.

        Returns:
            The trace, cut where it begins to loop; its id, task and compression are for the caller to set.
        """
        settings, request = self.settings, self._request(prompt_ids, index)
        sequence, detector, cut = DecodedSequence(request, self.adapter.device), LoopDetector(), None
        length = len(request.prompt)
        reader = ExitReader(self.step_adapter, request, settings, index)
        cache = self.adapter.new_cache(capacity=length + settings.max_new_tokens)
        adapter, inputs, position = self.adapter, prompt_ids.to(self.adapter.device), 0
        verified: Tensor | None = None
        while True:
            states = run_exits(adapter, adapter.embed(inputs, position), reader.read_layers, cache, position)
            deepest = reader.read_layers[-1]
            hidden = adapter.run_layers(states[-1], deepest, adapter.num_layers, cache, position)
            logits = adapter.read_head(hidden[:, -1:])[0]
            token = sequence.commit_token(logits)
            if verified is None:  # of a prompt of one token there is nothing before it
                verified = hidden[:, max(0, hidden.shape[1] - 2) :][:, :1].clone()
            reader.add([state[:, -1:] for state in states], logits, token, verified)
            verified = hidden[:, -1:].clone()
            reader.roll_out(cache)
            cut = detector.add(token)
            if on_token is not None:
                on_token()
            if cut is not None or sequence.is_finished:
                break
            position += inputs.shape[1]
            adapter, inputs = self.step_adapter, torch.tensor([[token]], device=self.adapter.device)
        tokens = sequence.tokens[length:]
        is_final_eos = cut is None and tokens[-1] in request.eos_token_ids
        num_positions = len(tokens) if cut is None else cut
        return PromptTrace(
            prompt_id="",
            task="all",
            compression="none",
            prompt_length=length,
            tokens=np.array(tokens[:num_positions], dtype=np.int64),
            exit_layers=settings.exit_layers,
            temperatures=settings.temperatures,
            **{name: values[:num_positions] for name, values in reader.columns().items()},
            is_final_eos=is_final_eos,
            is_loop_cut=cut is not None,
            token_limit=settings.max_new_tokens,
            eos_token_ids=tuple(sorted(request.eos_token_ids)),
            branches=reader.branches(num_positions),
            seed=request.seed if request.do_sample else None,
            sampling_temperature=request.sampling_temperature,
            prompt_tokens=np.array(request.prompt, dtype=np.int64),
            later=reader.later(num_positions),
        )

    def _request(self, prompt_ids: Tensor, index: int) -> Request:
        """What the decoder would make of the prompt."""
        settings = self.settings
        arguments = {**settings.sampling, "max_new_tokens": settings.max_new_tokens}
        seed = arguments.pop("seed", 0) + index
        ids = prompt_ids.tolist()
        (request,) = batch_from_arguments(self._greedy, self.adapter, ids, None, None, seed, arguments).requests
        eos = request.eos_token_ids if settings.eos_token_ids is None else frozenset(settings.eos_token_ids)
        return replace(request, eos_token_ids=eos)
