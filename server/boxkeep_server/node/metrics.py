"""The figures of a node, in Prometheus' form."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from boxkeep_server.model.node_api import Claim, ClaimState, DeathReason, NodeFacts

_CLAIM_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30)
_RELEASE_BUCKETS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.5, 1, 2, 5)


class Metrics:
    """Counters of one node process, and gauges taken when they are asked for."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._claims = Histogram(
            "boxkeep_node_claim_seconds",
            "Time that claims took.",
            ("kind", "warm"),
            buckets=_CLAIM_BUCKETS,
            registry=self._registry,
        )
        self._failures = Counter(
            "boxkeep_node_claims_failed", "Claims for which no machine came up.", ("kind",), registry=self._registry
        )
        self._releases = Histogram(
            "boxkeep_node_release_seconds",
            "Time that releases of a machine took.",
            buckets=_RELEASE_BUCKETS,
            registry=self._registry,
        )
        self._pauses = Histogram(
            "boxkeep_node_pause_seconds",
            "Time that it took to keep a machine.",
            ("keeps",),
            buckets=_CLAIM_BUCKETS,
            registry=self._registry,
        )
        self._checkpoints = Histogram(
            "boxkeep_node_checkpoint_standstill_seconds",
            "Time that a machine stood still for a checkpoint.",
            ("keeps",),
            buckets=_CLAIM_BUCKETS,
            registry=self._registry,
        )
        self._deaths = Counter(
            "boxkeep_node_deaths", "Machines that died before they were released.", ("reason",), registry=self._registry
        )
        self._machines = Gauge("boxkeep_node_machines", "Bound machines.", ("state",), registry=self._registry)
        self._warm = Gauge("boxkeep_node_warm", "Machines that wait in the pool.", ("kind",), registry=self._registry)
        self._slots = Gauge("boxkeep_node_slots", "Machines that this node takes.", registry=self._registry)
        self._admitting = Gauge("boxkeep_node_admitting", "1 while this node admits.", registry=self._registry)
        self._memory = Gauge(
            "boxkeep_node_machines_memory_bytes", "Memory of all bound machines.", registry=self._registry
        )

    def claimed(self, kind: str, warm: bool, seconds: float) -> None:
        """A claim was answered."""
        self._claims.labels(kind, str(warm).lower()).observe(seconds)

    def failed(self, kind: str) -> None:
        """A machine could not be had."""
        self._failures.labels(kind).inc()

    def released(self, seconds: float) -> None:
        """A machine is gone."""
        self._releases.observe(seconds)

    def paused(self, keeps: str, seconds: float) -> None:
        """A machine was kept."""
        self._pauses.labels(keeps).observe(seconds)

    def checkpointed(self, keeps: str, seconds: float) -> None:
        """A machine was kept, and stood still for so long."""
        self._checkpoints.labels(keeps).observe(seconds)

    def died(self, reason: DeathReason) -> None:
        """A machine died."""
        self._deaths.labels(reason.value).inc()

    def text(self, facts: NodeFacts, claims: tuple[Claim, ...]) -> bytes:
        """Everything, as Prometheus reads it."""
        for state in ClaimState:
            self._machines.labels(state).set(sum(claim.state == state for claim in claims))
        for kind, number in facts.warm.items():
            self._warm.labels(kind).set(number)
        self._slots.set(facts.slots)
        self._admitting.set(facts.admitting)
        self._memory.set(sum(claim.memory_bytes or 0 for claim in claims))
        return generate_latest(self._registry)
