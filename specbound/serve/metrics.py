"""Figures for Prometheus, under the names that dashboards of vLLM read. Knows no requests' texts."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from specbound_controller.records import StepRecord

SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
    600.0,
)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000)
LABELS = ("model_name", "engine")


class Metrics:
    """All figures of one server."""

    def __init__(self, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self._label = {"model_name": model_name, "engine": "0"}
        self.num_running = self._gauge("num_requests_running", "Answers that are decoded.")
        self.num_waiting = self._gauge("num_requests_waiting", "Answers that wait for a place in the batch.")
        self.cache_share = self._gauge(
            "kv_cache_usage_perc", "Share of the memory for keys and values that running answers take."
        )
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts.")
        self.generation_tokens = self._counter("generation_tokens", "Tokens of answers.")
        self.prefix_queries = self._counter("prefix_cache_queries", "Tokens of prompts that were looked up.")
        self.prefix_hits = self._counter("prefix_cache_hits", "Tokens of prompts that a cache held.")
        self.drafts = self._counter("spec_decode_num_drafts", "Steps with drafted tokens.")
        self.drafted = self._counter("spec_decode_num_draft_tokens", "Drafted tokens.")
        self.accepted = self._counter("spec_decode_num_accepted_tokens", "Drafted tokens that were accepted.")
        self._accepted_at = Counter(
            "vllm:spec_decode_num_accepted_tokens_per_pos",
            "Accepted tokens by their place in the draft.",
            (*LABELS, "position"),
            registry=self.registry,
        )
        self._finished = Counter(
            "vllm:request_success",
            "Answers by how they ended.",
            (*LABELS, "finished_reason"),
            registry=self.registry,
        )
        self.first_token_s = self._histogram("time_to_first_token_seconds", "Arrival to first token.")
        self.between_tokens_s = self._histogram("inter_token_latency_seconds", "Step over its tokens, for each token.")
        self.whole_s = self._histogram("e2e_request_latency_seconds", "Arrival to last token.")
        self.queue_s = self._histogram("request_queue_time_seconds", "Arrival to a place in the batch.")
        self.prefill_s = self._histogram("request_prefill_time_seconds", "Place in the batch to first token.")
        self.decode_s = self._histogram("request_decode_time_seconds", "First token to last.")
        self.prompt_lengths = self._histogram("request_prompt_tokens", "Tokens of a prompt.", TOKENS)
        self.answer_lengths = self._histogram("request_generation_tokens", "Tokens of an answer.", TOKENS)

    def step(self, record: StepRecord, num_tokens: int) -> None:
        """Counts a step of one answer. num_tokens: that it handed out"""
        self.generation_tokens.inc(num_tokens)
        if record.num_drafted:
            self.drafts.inc()
            self.drafted.inc(record.num_drafted)
            self.accepted.inc(record.num_accepted)
        for position in range(record.num_accepted):
            self._accepted_at.labels(**self._label, position=str(position)).inc()

    def finished(self, reason: str) -> None:
        """Counts an answer that ended: `stop`, `length`, `abort` or `error`."""
        self._finished.labels(**self._label, finished_reason=reason).inc()

    def text(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self.registry)

    def _gauge(self, name: str, what: str) -> Gauge:
        return Gauge(f"vllm:{name}", what, LABELS, registry=self.registry).labels(**self._label)

    def _counter(self, name: str, what: str) -> Counter:
        return Counter(f"vllm:{name}", what, LABELS, registry=self.registry).labels(**self._label)

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
        metric = Histogram(f"vllm:{name}", what, LABELS, registry=self.registry, buckets=buckets)
        return metric.labels(**self._label)
