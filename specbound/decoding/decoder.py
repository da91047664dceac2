"""The SpecBound decoder: shallow layers draft, one pass of the deep layers verifies, the output is the model's own.

Source: SpecBound (arXiv 2604.12247), bounded speculation with cached states.
"""

import copy
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as SequenceOf
from os import PathLike
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from specbound.decoding.arguments import batch_from_arguments
from specbound.decoding.caller import lent, streamer_of_caller
from specbound.decoding.detected import detected_level
from specbound.decoding.exactness import require_exactness
from specbound.decoding.live_model import LiveModel, TrainedFor
from specbound.decoding.loop import DecodeLoop, OnStep
from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.exit_modules import ExitSet
from specbound.decoding.model.families import name_of
from specbound.decoding.model.segments import compiled_segments
from specbound.decoding.model.wrapped import unwrapped
from specbound.decoding.named import guarded, named_policy, opened
from specbound.decoding.output import GenerateOutput, assemble
from specbound.decoding.prepared import batch_from_transformers
from specbound.decoding.request import Batch, Request
from specbound.decoding.running import RunningBatch
from specbound.decoding.texts import Message, chat_prompt, is_text, text_prompts
from specbound.decoding.watch import AcceptanceWatch
from specbound_controller.controller_policy import ControllerPolicy
from specbound_controller.draft_vocabulary import describe
from specbound_controller.errors import InputError
from specbound_controller.own_policy import require_policy
from specbound_controller.policy import Policy, StaticPolicy

Inputs = Tensor | SequenceOf[Tensor | SequenceOf[int]] | str | SequenceOf[str] | None
"""Prompts: token ids, or texts where a tokenizer is given."""


class SpecBoundDecoder:
    """Decodes with a model's own shallow layers as draft. The output equals plain decoding's, token for token.

    Example:
        >>> decoder = SpecBoundDecoder(model, policy=StaticPolicy(exit_layers=(3,), threshold=0.7, w_max=6))
        >>> ids = decoder.generate(**tokenizer("Once", return_tensors="pt"), max_new_tokens=128)  # as model.generate
        >>> stats = decoder.decode(**tokenizer("Once", return_tensors="pt"), max_new_tokens=128).stats
        >>> ids = model.generate(**inputs, custom_generate=decoder)  # the same decoder inside transformers
    """

    def __init__(
        self,
        model: PreTrainedModel,
        policy: Policy | str | None = None,
        compression: str | None = None,
        record_steps: bool = True,
        exactness: str = "token",
        compile: bool = False,
        exits: TrainedFor | None = None,
    ) -> None:
        """Wraps a model, which is never changed.

        Args:
            model: a decoder-only transformers model of a family that the adapter knows, in eval mode; may be wrapped
                by `torch.compile` or PEFT, or split over devices by a device_map.
            policy: chooses thresholds and bounds step by step; None is plain decoding. A name is what the command line
                takes: `plain`; `auto`, a guarded tree of drafts that cost no layer, for any model; a tree such as
                `tree7`; a guarded fixed setting such as `static:lookup0.5+exit4,width2`; a class of your own,
                `module:Class`; or a folder, as for `from_pretrained`. May be replaced later by a policy. The rows of a
                batch get a copy each.
            compression: compression level of the model's weights, a feature of the learned policies and a key of cost
                tables; None detects it.
            record_steps: keep one `StepRecord` per step in `output.stats.steps`.
            exactness: `token`, or `bitwise`: steps run on row-stable kernels, so that the output equals plain
                decoding's in the same mode at any compression. Prompts are run by the model's own kernels.
            compile: on a GPU, at exactness `token`: runs of layers on up to 16 tokens of one sequence that repeat are
                captured as CUDA graphs, without whose replay launching their kernels takes longer than running them.
            exits: trained exits of this model (`specbound.TrainedExits`), read in place of its own wherever the policy
                asks one of their layers. They draft; outputs stay the model's own.

        Raises:
            InputError: `compile` at another exactness, or not on a GPU; no policy of that name, or an object that is
                none, with what to write instead; exits of another model.
            UnsupportedModelError: the model cannot be run layer by layer, or not at this exactness on this device with
                this number of threads, or not as graphs; the message says why.
        """
        require_exactness(exactness)
        self._live = LiveModel(model, exactness, exits)
        self.model: PreTrainedModel = self._live.model
        self.adapter, self.step_adapter = self._live.current()
        """What ran the last call's prompts, and its steps: at `bitwise` a row-stable twin of the model."""
        self._policy_lock, self._making = threading.Lock(), threading.Lock()
        self.compression = detected_level(self.model) if compression is None else compression
        self.record_steps = record_steps
        self.exactness = exactness
        self._is_compiled = compile
        self._watch = AcceptanceWatch()
        self._made: Policy
        self._make: Callable[[], Policy] | None
        if isinstance(policy, str):
            policy = named_policy(policy, self.model, self.compression, exactness, compile, exits)
        self.policy = policy if policy is not None else StaticPolicy((), w_max=0)
        if compile:
            self.adapter.segments = compiled_segments(self.adapter, exactness)

    @classmethod
    def from_pretrained(
        cls,
        model: PreTrainedModel,
        name: str | PathLike[str],
        *,
        compression: str | None = None,
        exactness: str | None = None,
        record_steps: bool = True,
        compile: bool = False,
        exits: TrainedFor | None = None,
    ) -> "SpecBoundDecoder":
        """A decoder with what `specbound fit` or `train-controller` made for this model.

        What work costs is read from the folder where it was measured on this machine, else from what this user has
        measured before, else measured at the first call (half a minute, once, with a notice).

        Args:
            name: a folder that `fit` or `train-controller` wrote, a Hugging Face name, or `demo`.
            compression: level of the model's weights; None detects it.
            exactness: None is the one that `fit` measured, else `token`.
            exits: trained ones, where `fit` was given them and plays them, or the controller was trained on a log with
                them; others are refused.

        Raises:
            InputError: nothing is there, or it was made for another model; both are named.

        Example:
            >>> decoder = SpecBoundDecoder.from_pretrained(model, "runs/fit")
            >>> print(decoder.chat("Name three rivers.", tokenizer, max_new_tokens=64))
        """
        given = unwrapped(model)
        level = detected_level(given) if compression is None else compression
        level_of_output, make = opened(str(name), given, level, exactness, compile, exits)
        decoder = cls(model, None, level, record_steps, level_of_output, compile, exits)
        decoder._make_later(make)
        return decoder

    @property
    def policy(self) -> Policy:
        """Who drafts; what has to be measured for it is at the first look."""
        with self._making:
            if self._make is not None:
                self._made, self._make = self._make(), None
            return self._made

    @policy.setter
    def policy(self, policy: Policy) -> None:
        policy = require_policy(policy)
        self._watch.start(policy)
        self._made, self._make = policy, None
        if getattr(policy, "guarded", False):
            way = (self.compression, self.exactness, self._is_compiled, self._live.exits)
            self._make_later(lambda: guarded(policy, self.model, *way))

    def _ready(self) -> None:
        """Makes the policy, before any clock runs."""
        if self._make is not None:
            assert self.policy is not None

    def _make_later(self, make: Callable[[], Policy]) -> None:
        self._make = make

    def __deepcopy__(self, memo: dict[int, Any]) -> "SpecBoundDecoder":
        """A decoder of a copy of the model, with a copy of the policy."""
        model, policy = copy.deepcopy((self._live.given, self.policy), memo)
        exits, is_compiled = self._live.exits, self._is_compiled
        return type(self)(model, policy, self.compression, self.record_steps, self.exactness, is_compiled, exits)

    def chat(
        self,
        messages: str | Message | SequenceOf[Message],
        tokenizer: PreTrainedTokenizerBase,
        **arguments: Any,
    ) -> str:
        """The model's reply to a conversation, as text. arguments: those of `decode`.

        messages: `[{"role": "user", "content": "..."}, ...]`, or one text of the user's.

        Raises InputError where the tokenizer has no chat template.
        """
        ids = chat_prompt(messages, tokenizer)
        output = self.decode([ids], tokenizer=tokenizer, **arguments)
        return str(tokenizer.decode(output.sequences[0, ids.shape[1] :], skip_special_tokens=True))

    def generate(
        self,
        inputs: Inputs = None,
        generation_config: GenerationConfig | None = None,
        **arguments: Any,
    ) -> Tensor | GenerateOutput:
        """What `model.generate` with the same arguments returns: token ids, or a `GenerateOutput`.

        See `decode` for the arguments. With `return_dict_in_generate=True`, here or in the generation config, returns
        the `GenerateOutput`, otherwise its `sequences`: (rows, prompt + output) int64.
        """
        output, is_dict = self._decode_arguments(inputs, generation_config, **arguments)
        return output if is_dict else output.sequences

    def decode(
        self,
        inputs: Inputs = None,
        generation_config: GenerationConfig | None = None,
        **arguments: Any,
    ) -> GenerateOutput:
        """Generates, and returns the token ids with the step statistics and the cache.

        Args:
            inputs: (rows, T) prompt token ids, left-padded where `attention_mask` says so, or a list of prompts, or
                with `tokenizer` a text or several, as they stand. Also accepted by the name `input_ids`.
            generation_config: used in place of the model's own, which fills what it leaves unset.
            **arguments: those of transformers' `generate` (`max_new_tokens`, `do_sample`, `temperature`,
                `eos_token_id`, `logits_processor`, `stopping_criteria`, `past_key_values`, ...), and

                seed (int | list[int]): seed of the sampling noise; row r uses seed + r, or the r-th of a list. By
                    default drawn from torch's generator.
                streamer: a transformers streamer; gets the prompt, then every token once, in order, and the end, also
                    when decoding fails. For one sequence.
                tokenizer: needed for `stop_strings` and for texts.
                on_step: called after every step with its `StepRecord` and its row.

        Raises:
            InputError: an argument that cannot be honoured (beam search, assistants, ...), by name.
            ValueError: what transformers' generate refuses, in its words.
        """
        return self._decode_arguments(inputs, generation_config, **arguments)[0]

    def running(self) -> RunningBatch:
        """An empty batch that sequences join and leave between steps, for servers.

        It runs the model as it is now, with copies of the policy; `request_of` makes what joins. The number of CPU
        threads must be that of the thread that will call it.
        """
        self._ready()
        adapters = self._current_adapters()
        refuse_other_exits(self.policy, adapters[0].exits)
        return RunningBatch(adapters, self.policy, self.compression)

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        logits_processor: Iterable[object] = (),
        stopping_criteria: Iterable[object] = (),
        generation_config: GenerationConfig | None = None,
        seed: int | list[int] | None = None,
        on_step: OnStep | None = None,
        **model_kwargs: object,
    ) -> Tensor | GenerateOutput:
        """`model.generate(..., custom_generate=decoder)`: transformers calls this with what it has prepared."""
        self._ready()
        started = time.perf_counter()
        if unwrapped(model) is not self.model:
            raise InputError(f"custom_generate was built for another model than {name_of(model)}: make a new decoder")
        adapters = self._current_adapters()
        config = generation_config if generation_config is not None else model.generation_config
        batch = batch_from_transformers(
            adapters[0], input_ids, logits_processor, stopping_criteria, config, seed, model_kwargs
        )
        output = self._decode(adapters, batch, started, streamer_of_caller(), on_step)
        return output if batch.return_dict else output.sequences

    def _decode_arguments(
        self,
        inputs: Inputs,
        generation_config: GenerationConfig | None,
        *,
        input_ids: Inputs = None,
        streamer: BaseStreamer | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        seed: int | list[int] | None = None,
        on_step: OnStep | None = None,
        **others: Any,
    ) -> tuple[GenerateOutput, bool]:
        self._ready()
        started = time.perf_counter()
        if inputs is not None and input_ids is not None:
            raise InputError("input_ids must be given once, got inputs as well")
        inputs = inputs if inputs is not None else input_ids
        prompts: Any = text_prompts(inputs, tokenizer) if is_text(inputs) else inputs
        adapters = self._current_adapters()
        batch = batch_from_arguments(self.model, adapters[0], prompts, generation_config, tokenizer, seed, others)
        if streamer is not None and len(batch.requests) == 1:
            streamer.put(batch.input_ids.cpu())
        return self._decode(adapters, batch, started, streamer, on_step), batch.return_dict

    def _current_adapters(self) -> tuple[ModelAdapter, ModelAdapter]:
        """What runs prompts and steps of the model as it is now."""
        self.adapter, self.step_adapter = adapters = self._live.current()
        return adapters

    def _decode(
        self,
        adapters: tuple[ModelAdapter, ModelAdapter],
        batch: Batch,
        started: float,
        streamer: BaseStreamer | None,
        on_step: OnStep | None,
    ) -> GenerateOutput:
        """Decodes a batch. streamer: has seen the prompt"""
        if streamer is not None and len(batch.requests) > 1:
            raise InputError(f"streamer must belong to one sequence, got a batch of {len(batch.requests)}")
        refuse_other_exits(self.policy, adapters[0].exits)
        with lent(self.policy, self._policy_lock) as policy:
            loop = DecodeLoop(adapters, batch, policy, self.compression, started)
            try:
                for emitted in loop.steps(self.record_steps, self._watch.watching(on_step)):
                    if streamer is not None:
                        for token in emitted:
                            streamer.put(torch.tensor([token]))
            finally:
                if streamer is not None:
                    streamer.end()  # whoever reads the stream must not wait for ever
                if adapters[0].autocast is not None:
                    torch.clear_autocast_cache()  # what it holds of the weights cannot be trained on
        return assemble(batch, [row.sequence for row in loop.rows], loop.cache, [row.stats for row in loop.rows])


def refuse_other_exits(policy: Policy, exits: ExitSet | None) -> None:
    """Raises InputError where a controller would read trained exits that its scores were not fitted on.

    The other way round, where the exits that it asks for are not there, the adapter refuses when it is to read them.
    """
    if exits is not None and isinstance(policy, ControllerPolicy) and policy.draft_vocabulary != exits.vocabulary:
        raise InputError(
            f"the controller was trained on exits that read {describe(policy.draft_vocabulary)}, got "
            f"{exits.vocabulary}: leave the exits out, or train a controller on a log with them"
        )


def request_of(decoder: SpecBoundDecoder, input_ids: Tensor, arguments: Mapping[str, Any]) -> Request:
    """What `decoder.decode([input_ids], **arguments)` asks for."""
    others = dict(arguments)
    tokenizer, seed = others.pop("tokenizer", None), others.pop("seed", None)
    batch = batch_from_arguments(decoder.model, decoder.adapter, [input_ids], None, tokenizer, seed, others)
    return batch.requests[0]
