"""The service's own series, and the clock of its start."""

import os
import time

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """The service's own series; vLLM's stand beside them in the same registry under vLLM's names."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.registry = registry
        buckets = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 350)
        self.requests = Counter(
            "chatbot_requests", "Requests by route and outcome.", ["route", "outcome"], registry=registry
        )
        self.seconds = Histogram(
            "chatbot_request_seconds", "Whole time of a request.", ["route"], buckets=buckets, registry=registry
        )
        self.queue = Histogram("chatbot_queue_seconds", "Time before a slot.", buckets=buckets, registry=registry)
        self.first = Histogram(
            "chatbot_time_to_first_byte_seconds", "Until the first byte.", buckets=buckets, registry=registry
        )
        self.running = Gauge("chatbot_running_requests", "Requests holding a slot.", registry=registry)
        self.waiting = Gauge("chatbot_waiting_requests", "Requests waiting for a slot.", registry=registry)
        self.ready = Gauge("chatbot_ready", "1 when the engine answers.", registry=registry)
        self.startup = Gauge("chatbot_startup_phase_seconds", "Parts of the cold start.", ["phase"], registry=registry)
        self.frozen = Gauge("chatbot_frozen_seconds", "Time this process was stopped for.", registry=registry)

    def render(self) -> bytes:
        return generate_latest(self.registry)


def process_age_s() -> float:
    """Seconds since `python -m chatbot_llm` began, freezes included; 0.0 when it was not started that way."""
    started = os.environ.get("CHATBOT_STARTED_AT")
    return max(0.0, time.time() - float(started)) if started else 0.0
