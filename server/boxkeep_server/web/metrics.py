"""What the API counts of itself, for Prometheus: never a tenant, an id or a path of a request."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


class Metrics:
    """Counters of one application; what other parts register in `registry` is shown beside them."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._requests = Counter(
            "boxkeep_http_requests_total",
            "Requests by method, route and status.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "boxkeep_http_request_seconds",
            "Time from the request's head to the response's end.",
            ("route",),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._leaks = Gauge(
            "boxkeep_leaks", "Things on the nodes that belong to nobody.", ("kind",), registry=self.registry
        )
        self.previews = Gauge(
            "boxkeep_preview_sandboxes", "Sandboxes at whose previews somebody is now.", registry=self.registry
        )
        self.terminals = Gauge("boxkeep_terminal_clients", "Terminal connections now open.", registry=self.registry)

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """One request done."""
        known = method if method in _METHODS else "other"
        self._requests.labels(known, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def leaked(self, counts: Mapping[str, int] | None) -> None:
        """What belongs to nobody on the nodes, by kind; None: a node is away, so that nobody knows."""
        self._leaks.clear()
        for kind, count in (counts or {}).items():
            self._leaks.labels(kind).set(count)

    def exposition(self) -> tuple[bytes, str]:
        """All of it in Prometheus's text format, and that format's content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
