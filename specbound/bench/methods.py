"""Our decoder as a method to time: plain, a static setting, a controller, at either level of exactness."""

from typing import Protocol

from specbound.bench.observe import Observation, peak_memory
from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.greedy_twin import greedy_twin
from specbound.decoding.stats import DecodeStats
from specbound.evaluation.timing import TimedPrompt, policy_method
from specbound.models.loading import LoadedModel
from specbound_controller.policy import Policy, StaticPolicy
from specbound_profiling.costs.stopwatch import step_clock


class BenchMethod(Protocol):
    """One way to decode that can be timed, and looked at without a clock."""

    @property
    def name(self) -> str:
        """As in the `method` column."""

    @property
    def setting(self) -> str:
        """What was chosen for it; empty where nothing was."""

    def run(self, prompt: TimedPrompt) -> tuple[list[int], DecodeStats | None]:
        """New tokens of one prompt, and counts where the method keeps them."""

    def observe(self, prompt: TimedPrompt) -> Observation:
        """The same, with all counts."""


def new_decoder(loaded: LoadedModel, exactness: str, is_compiled: bool = False) -> SpecBoundDecoder:
    """A decoder that several methods share. Raises InputError where segments cannot be captured."""
    return SpecBoundDecoder(
        greedy_twin(loaded.model),
        compression=loaded.compression,
        record_steps=False,
        exactness=exactness,
        compile=is_compiled,
        exits=loaded.exits,
    )


class OurMethod:
    """Our decoder under one policy."""

    def __init__(self, name: str, decoder: SpecBoundDecoder, policy: Policy | None = None, setting: str = "") -> None:
        """policy: None is plain decoding."""
        self.name, self.decoder, self.setting = name, decoder, setting
        self.policy: Policy = StaticPolicy(()) if policy is None else policy
        self.run = policy_method(name, decoder, self.policy).run

    def observe(self, prompt: TimedPrompt) -> Observation:
        """New tokens of one prompt, with all counts, and seconds by the clock of the cost table."""
        decoder, marks = self.decoder, list[float]()
        clock = step_clock(decoder.adapter.device)
        decoder.policy, decoder.record_steps = self.policy, True
        try:
            with peak_memory(decoder.adapter.device) as peak:
                output = decoder.decode(
                    [prompt.input_ids],
                    max_new_tokens=prompt.max_new_tokens,
                    on_step=lambda record, row: marks.append(clock()),
                    **prompt.sampling,
                )
        finally:
            decoder.record_steps = False
        tokens, stats = output.sequences[0, prompt.input_ids.shape[1] :].tolist(), output.stats
        records = tuple(stats.steps)
        return Observation(
            tokens=tokens,
            stats=stats,
            num_layer_rows=sum(record.num_layer_rows for record in records),
            first_token_s=stats.prefill_seconds,
            step_tokens=tuple(record.num_emitted for record in records),
            peak_bytes=peak(),
            records=records[1:],  # the first one began in prefill
            steps_s=marks[-1] - marks[0] if marks else 0.0,
        )
