"""One OpenTelemetry server span per request, when an endpoint is set; else nothing, not even an import.

The standard variables rule (OpenTelemetry specification, "OTLP Exporter Configuration"): `OTEL_EXPORTER_OTLP_ENDPOINT`
or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` switches tracing on, spans go there as OTLP over HTTP. vLLM's own spans become
children of ours: it is given our context as its `traceparent`. A span holds names and numbers, never text of a request.
"""

import functools
import logging
import os
import time
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
#: Fields of the request log -> attributes (OpenTelemetry semantic conventions for HTTP and generative AI).
_ATTRIBUTES = {
    "model": "gen_ai.request.model",
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "completion_tokens": "gen_ai.usage.output_tokens",
    "outcome": "chatbot.outcome",
    "cold": "chatbot.cold",
    "request_id": "chatbot.request_id",
    "fc_request_id": "faas.invocation_id",
    "queue_ms": "chatbot.queue_ms",
    "ttft_ms": "chatbot.ttft_ms",
    "decode_ms": "chatbot.decode_ms",
}
#: Outcomes that are the service's fault.
_FAILURES = ("engine_error", "internal_error", "engine_unavailable")


def endpoint() -> str:
    """Where spans go, as one full URL, or "" when tracing is off."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return ""
    own, shared = (os.environ.get(name, "") for name in _ENDPOINTS)
    return own or (shared.rstrip("/") + "/v1/traces" if shared else "")


@functools.cache
def _tracer() -> Any:
    if not endpoint():
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win over what is given here.
    os.environ.setdefault("OTEL_SERVICE_NAME", "chatbot-llm")
    provider = TracerProvider(resource=Resource.create())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint())))
    log.info("traces are sent as OTLP over HTTP")
    return provider.get_tracer("chatbot_llm")


class Span:
    """A request's span. Does nothing while tracing is off."""

    def __init__(self, route: str, trace: dict[str, str], waited_s: float) -> None:
        """Open the span `waited_s` seconds ago below the caller's context in `trace`, and put its own in there."""
        self._span: Any = None
        if (tracer := _tracer()) is None:
            return
        from opentelemetry.trace import SpanKind, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        propagator = TraceContextTextMapPropagator()
        self._span = tracer.start_span(
            f"POST {route}",
            context=propagator.extract(trace),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": "POST", "http.route": route, "gen_ai.provider.name": "vllm"},
            start_time=int((time.time() - waited_s) * 1e9),
        )
        trace.clear()
        propagator.inject(trace, context=set_span_in_context(self._span))

    def end(self, fields: Mapping[str, Any]) -> None:
        """Close the span with the fields of the request's log line."""
        if self._span is None:
            return
        from opentelemetry.trace import StatusCode

        for name, attribute in _ATTRIBUTES.items():
            if fields.get(name) not in (None, ""):
                self._span.set_attribute(attribute, fields[name])
        if fields.get("outcome") in _FAILURES:
            self._span.set_status(StatusCode.ERROR, str(fields["outcome"]))
        self._span.end()
