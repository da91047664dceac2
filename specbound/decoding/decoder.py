"""The SpecBound decoder: shallow layers draft, one pass of the deep layers verifies, the output is the model's own.

Source: SpecBound (arXiv 2604.12247), bounded speculation with cached states.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from specbound.decoding.adapter import ModelAdapter, name_of, refuse_unsupported
from specbound.decoding.request import Request, request_from_arguments, request_from_transformers
from specbound.decoding.signals import logit_statistics
from specbound.decoding.stats import DecodeStats
from specbound.decoding.step import Draft, StepRunner
from specbound_controller.errors import InputError
from specbound_controller.features import FeatureState
from specbound_controller.policy import Policy, StaticPolicy
from specbound_controller.records import Decision, StepRecord

NEW_TOKENS_CAPACITY = 256
"""Room for new tokens that a cache begins with; it doubles when full."""


@dataclass(frozen=True, slots=True)
class GenerateOutput:
    """What `SpecBoundDecoder.generate` returns."""

    sequences: Tensor
    """(1, prompt + output) int64: the prompt and the generated tokens, as transformers returns them."""
    stats: DecodeStats
    """Step records, counts and metrics."""


class SpecBoundDecoder:
    """Decodes with a model's own shallow layers as draft. The greedy output equals plain decoding token for token.

    Example:
        >>> decoder = SpecBoundDecoder(model, policy=StaticPolicy(exit_layers=(3,), threshold=0.7, w_max=6))
        >>> output = decoder.generate(**tokenizer("Once", return_tensors="pt"), max_new_tokens=128)
        >>> model.generate(**inputs, custom_generate=decoder)  # the same decoder inside transformers
    """

    def __init__(
        self,
        model: PreTrainedModel,
        policy: Policy | None = None,
        compression: str = "none",
        record_steps: bool = True,
    ) -> None:
        """Wraps a model, which is never changed.

        Args:
            model: a decoder-only transformers model of a family that the adapter knows, in eval mode.
            policy: chooses thresholds and bounds step by step; None is plain decoding. May be replaced later.
            compression: compression level of the model's weights, a feature of the learned policies.
            record_steps: keep one `StepRecord` per step in `output.stats.steps`.

        Raises:
            UnsupportedModelError: the model cannot be run layer by layer; the message says why.
        """
        self.adapter = ModelAdapter(model)
        self.model = model
        self.policy: Policy = policy if policy is not None else StaticPolicy((), w_max=0)
        self.compression = compression
        self.record_steps = record_steps

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        max_new_tokens: int | None = None,
        max_length: int | None = None,
        eos_token_id: int | list[int] | None = None,
        generation_config: GenerationConfig | None = None,
        streamer: BaseStreamer | None = None,
        on_step: Callable[[StepRecord], None] | None = None,
        **unsupported: object,
    ) -> GenerateOutput:
        """Greedy generation.

        Args:
            input_ids: (1, T) prompt token ids.
            attention_mask: (1, T), all ones: padding is not supported.
            max_new_tokens: most tokens to generate; by default the generation config's.
            max_length: most tokens of prompt and output together; `max_new_tokens` wins.
            eos_token_id: tokens that end the output; by default the generation config's.
            generation_config: used in place of the model's own.
            streamer: a transformers streamer; gets the prompt, then every token once, in order.
            on_step: called after every step with its record.

        Raises:
            InputError: an argument that cannot be honoured, by name.
        """
        config = generation_config if generation_config is not None else self.model.generation_config
        request = request_from_arguments(
            self.adapter, config, input_ids, attention_mask, max_new_tokens, max_length, eos_token_id, unsupported
        )
        return self._decode(request, streamer, on_step)

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        logits_processor: Iterable[object] = (),
        stopping_criteria: Iterable[object] = (),
        generation_config: GenerationConfig | None = None,
        **model_kwargs: object,
    ) -> Tensor:
        """`model.generate(..., custom_generate=decoder)`: transformers calls this with what it has prepared."""
        if model is not self.model:
            raise InputError(f"custom_generate was built for another model than {name_of(model)}: make a new decoder")
        config = generation_config if generation_config is not None else model.generation_config
        request = request_from_transformers(
            self.adapter, config, input_ids, logits_processor, stopping_criteria, model_kwargs
        )
        return self._decode(request, None, None).sequences

    def _decode(
        self, request: Request, streamer: BaseStreamer | None, on_step: Callable[[StepRecord], None] | None
    ) -> GenerateOutput:
        refuse_unsupported(self.model)  # the user may have changed its mode or kernels since
        stats = DecodeStats()
        tokens = request.input_ids[0].tolist()
        num_prompt_tokens = len(tokens)
        if streamer is not None:
            streamer.put(request.input_ids.cpu())
        for emitted in self._token_groups(request, tokens, stats, on_step):
            if streamer is not None:
                for token in emitted:
                    streamer.put(torch.tensor([token]))
        if streamer is not None:
            streamer.end()
        stats.num_tokens = len(tokens) - num_prompt_tokens
        return GenerateOutput(torch.tensor([tokens], device=request.input_ids.device), stats)

    @torch.inference_mode()
    def _token_groups(
        self,
        request: Request,
        tokens: list[int],
        stats: DecodeStats,
        on_step: Callable[[StepRecord], None] | None,
    ) -> Iterable[list[int]]:
        """Appends the output to `tokens` and yields what each step emitted. Holds all state of the call."""
        started = time.perf_counter()
        limit = len(tokens) + request.max_new_tokens
        cache = self.adapter.new_cache(capacity=min(limit, len(tokens) + NEW_TOKENS_CAPACITY))
        runner = StepRunner(self.adapter, cache, request.eos_token_ids)
        self.policy.reset()
        features = FeatureState(self.compression) if self.policy.needs_features else None
        hidden = self.adapter.embed(request.input_ids, 0)
        hidden = self.adapter.run_layers(hidden, 0, self.adapter.num_layers, cache, 0)
        tokens.append(int(self.adapter.read_head(hidden[:, -1:])[0, -1].argmax()))
        if features is not None:
            features.reset(len(tokens))
        stats.num_tokens += 1
        stats.prefill_seconds = stats.seconds = time.perf_counter() - started
        yield tokens[-1:]

        while len(tokens) < limit and tokens[-1] not in request.eos_token_ids:
            step_started = time.perf_counter()
            vector = features.vector() if features is not None else None
            decision = bounded(self.policy.decide(vector), limit - len(tokens) - 1)
            draft = runner.draft(tokens[-1], len(tokens) - 1, decision, vector)
            logits = runner.verify(draft)
            emitted, num_accepted = accept_greedy(draft, logits, request.eos_token_ids)
            context_length = len(tokens)
            tokens.extend(emitted)
            cache.truncate(len(tokens) - 1)
            full_row = logits[len(emitted) - 1 : len(emitted)] if self.policy.needs_full_signals else None
            record = step_record(runner, draft, num_accepted, len(emitted), context_length, full_row, step_started)
            self.policy.observe(record)
            if features is not None:
                features.update(record)
            stats.add_step(record, self.record_steps)
            stats.seconds = time.perf_counter() - started
            if on_step is not None:
                on_step(record)
            yield emitted


def bounded(decision: Decision, most: int) -> Decision:
    """The same decision with its width clipped to the tokens still wanted, the bonus token left out."""
    if decision.w_max <= most:
        return decision
    return Decision(most, decision.thresholds, decision.score, decision.combine, decision.d_max)


def accept_greedy(draft: Draft, logits: Tensor, eos_token_ids: frozenset[int]) -> tuple[list[int], int]:
    """Accepted drafts and the bonus token, cut at the first EOS; and how many drafts were accepted.

    logits: (w + 1, V) of the full model at the pending positions.
    """
    own = logits.argmax(-1).tolist()
    emitted: list[int] = []
    for index, token in enumerate(own):
        emitted.append(token)
        is_accepted = index < draft.num_drafted and draft.tokens[index + 1] == token
        if not is_accepted or token in eos_token_ids:
            return emitted, index + is_accepted
    raise AssertionError("the bonus token always ends the loop")


def step_record(
    runner: StepRunner,
    draft: Draft,
    num_accepted: int,
    num_emitted: int,
    context_length: int,
    full_row: Tensor | None,
    started: float,
) -> StepRecord:
    """The record of a finished step; takes the runner's work counts and leaves it empty ones."""
    work = runner.take_work()
    full = [math.nan] * 3
    if full_row is not None:
        full = torch.cat(logit_statistics(full_row)[1:]).tolist()
    return StepRecord(
        context_length=context_length,
        num_drafted=draft.num_drafted,
        num_accepted=num_accepted,
        num_emitted=num_emitted,
        exit_layers=tuple(draft.exit_layers),
        scores=tuple(draft.scores),
        confidences=tuple(s.confidence if s is not None else math.nan for s in draft.signals),
        entropies_nats=tuple(s.entropy_nats if s is not None else math.nan for s in draft.signals),
        stop_reason=draft.stop_reason,
        layer_calls_by_rows=work.layer_calls,
        head_reads_by_rows=work.head_reads,
        num_exit_tests=work.num_exit_tests,
        full_confidence=full[0],
        full_entropy_nats=full[1],
        full_margin=full[2],
        seconds=time.perf_counter() - started,
    )
