"""Counts of a server for Prometheus, under vLLM's names with `steerkit_` before them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from steerkit.server.generation import Generation, Generator
from steerkit.server.outcome import Outcome

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_TOKEN_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class Metrics:
    """The counts of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"steerkit_{name}", what, labels, registry=self._registry)

        def histogram(name: str, what: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
            return Histogram(f"steerkit_{name}", what, buckets=buckets, registry=self._registry)

        self._prompt = counter("prompt_tokens", "Tokens of prompts.")
        self._looked_up = counter("prefix_cache_queries", "Tokens of prompts, which the prefix cache was asked for.")
        self._cached = counter("prefix_cache_hits", "Tokens of prompts that came from the prefix cache.")
        self._generated = counter("generation_tokens", "Tokens of replies.")
        self._success = counter("request_success", "Finished generations.", "finished_reason")
        self._first = histogram("time_to_first_token_seconds", "From the request to its first token.")
        self._between = histogram("inter_token_latency_seconds", "Mean time between tokens of a reply.", _TOKEN_SECONDS)
        self._whole = histogram("e2e_request_latency_seconds", "From the request to its turn.")
        self._verdicts = counter("verdicts", "Verdicts on calls.", "verdict", "rule")
        self._records = counter("records", "Turns written to the audit store.")
        self._failed = counter("records_failed", "Turns that could not be recorded.")
        self._edits = counter("steering_edits", "Tokens at which a steering rule wrote.", "policy")
        self._refused = counter("requests_refused", "Requests that ended with an error.", "status")

    def watch(self, generator: Generator, held: Callable[[], int]) -> None:
        """Show the load of a generator and the calls that wait, when read."""

        def gauge(name: str, what: str, read: Callable[[], float]) -> None:
            Gauge(f"steerkit_{name}", what, registry=self._registry).set_function(read)

        gauge("num_requests_running", "Requests that are generated now.", lambda: generator.load[0])
        gauge("num_requests_waiting", "Requests that wait.", lambda: generator.load[1])
        gauge("held_pending", "Held calls that wait for a decision.", held)

    def finished(self, outcome: Outcome, generation: Generation, began: float, now: float) -> None:
        """Count a turn. Times are those of `time.monotonic`."""
        turn, times = outcome.turn, generation.token_times
        for count in (self._prompt, self._looked_up):
            count.inc(len(turn.prompt_ids))
        self._cached.inc(turn.cached_tokens)
        self._generated.inc(len(turn.reply_ids))
        self._success.labels(turn.finish).inc()
        self._whole.observe(now - began)
        if times is not None:
            self._first.observe(times[0] - began)
            if len(turn.reply_ids) > 1:
                self._between.observe((times[1] - times[0]) / (len(turn.reply_ids) - 1))
        for verdict in turn.verdicts:
            self._verdicts.labels(verdict.decision, verdict.rule).inc()
        for edit in turn.trace.edits:
            self._edits.labels(edit.policy).inc(len(edit.positions))
        if turn.record_id is not None:
            self._records.inc()

    def record_failed(self) -> None:
        """Count a turn that could not be recorded."""
        self._failed.inc()

    def refused(self, status: int) -> None:
        """Count a request that ended with an error."""
        self._refused.labels(str(status)).inc()

    def text(self) -> bytes:
        """The counts in Prometheus's text format."""
        return generate_latest(self._registry)
