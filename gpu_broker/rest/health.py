"""``/health`` for load balancers, ``/metrics`` for Prometheus. No names of people in either."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

from gpu_broker import errors, models
from gpu_broker.rest.api import Handler, Operation, operation


class HealthHandler(Handler):
    """Does it work?"""

    @operation(
        Operation("Whether the broker can do its work", models.Health, None, refusals=(503,))
    )
    async def get(self) -> models.Health:
        if not await self.parts.threads.run(self.parts.database.healthy):
            raise errors.unavailable("The broker's database does not answer; its log says more.")
        return models.Health(
            version=self.parts.version, nodes_online=len(self.parts.fleet.online())
        )


class MetricsHandler(Handler):
    """Aggregates in Prometheus' text format."""

    async def get(self) -> None:
        threads, store = self.parts.threads, self.parts.store
        nodes = await threads.run(store.nodes, self.parts.fleet.online())
        counts = await threads.run(store.counts)
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.finish(generate_latest(_registry(nodes, counts)))


def _registry(nodes: list[models.Node], counts: dict[str, int]) -> CollectorRegistry:
    registry = CollectorRegistry()

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"carrel_{name}", text, labels, registry=registry)

    leases = gauge("leases", "Leases kept in the database, by state", "state")
    for state in ("queued", "granted", "active", "idle", "ended"):
        leases.labels(state).set(counts.get(state, 0))
    by_state = gauge("nodes", "Nodes by state", "state")
    for state in ("online", "offline", "lost"):
        by_state.labels(state).set(sum(node.state == state for node in nodes))
    where = ("node", "gpu")
    size = gauge("gpu_vram_bytes", "Size of a GPU's memory", *where)
    leased = gauge("gpu_vram_leased_bytes", "Memory of a GPU that is leased", *where)
    used = gauge("gpu_vram_used_bytes", "Memory of a GPU in use, measured", *where)
    tflops = gauge("gpu_tflops", "Compute of a GPU, dense FP16 TFLOPS", *where)
    tflops_leased = gauge("gpu_tflops_leased", "Compute of a GPU that is leased", *where)
    busy = gauge("gpu_utilization_ratio", "Share of time a GPU is busy, 0 to 1", *where)
    for node in nodes:
        for gpu in node.gpus:
            at = (node.name, str(gpu.index))
            size.labels(*at).set(gpu.vram_mib * 2**20)
            leased.labels(*at).set((gpu.vram_mib - gpu.vram_free_mib) * 2**20)
            used.labels(*at).set(gpu.used_mib * 2**20)
            tflops.labels(*at).set(gpu.tflops)
            tflops_leased.labels(*at).set(gpu.tflops - gpu.tflops_free)
            busy.labels(*at).set(gpu.utilization / 100)
    return registry
