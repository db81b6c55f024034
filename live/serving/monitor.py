"""The monitor of a service: counts, the online metrics, the test for drift, and recent predictions."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

from .samples import excerpt

if TYPE_CHECKING:
    from ..learner import OnlineLearner

RECENT = 50
"""Predictions on the page."""

POINTS = 600
"""Points of its curves."""

STEP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
"""Seconds, of the histograms."""


class ServiceMonitor:
    """Counts, and keeps the last figures.

    Attributes:
        position: Operations learned when the figures were taken.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.position = -1
        self._figures: dict[str, Any] = {}
        self._reason = ""
        self._history: deque[dict[str, Any]] = deque(maxlen=POINTS)
        self._recent: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._by_id: dict[Any, int] = {}
        self._taken = time.monotonic()
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._outcomes = self._counter("operations", "Operations of the log, by kind and outcome.", "kind", "outcome")
        self._requests = self._counter("requests", "Requests, by endpoint and status.", "endpoint", "status")
        self._predictions = self._counter("predictions", "Predictions.")
        self._rejected = self._counter("rejected", "Operations of the log from which nothing could be learned.")
        self._unwritten = self._counter("log_failures", "Writes of the log that failed; nothing was acknowledged.")
        self._unsaved = self._counter("snapshot_failures", "Snapshots that failed; the log is kept.")
        self._steps = Histogram(
            "filtune_learn_seconds", "Time to learn from a sample.", registry=self.registry, buckets=STEP_BUCKETS
        )
        self._latency = Histogram(
            "filtune_request_seconds", "Time of a request.", ["endpoint"], registry=self.registry, buckets=STEP_BUCKETS
        )

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"filtune_{name}", about, labels, registry=self.registry)

    # counts

    def outcome(self, kind: str, outcome: str) -> None:
        """Count an operation of the log."""
        self._outcomes.labels(kind, outcome).inc()

    def request(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(endpoint, str(status)).inc()
        self._latency.labels(endpoint).observe(seconds)

    def learned(self, seconds: float, count: int) -> None:
        """Count what was learned."""
        for _ in range(count):
            self._steps.observe(seconds)

    def rejected(self, error: Exception) -> None:
        """Count an operation from which nothing could be learned."""
        self._rejected.inc()
        self._reason = " ".join(str(error).split())[:200]

    def unwritten(self, error: Exception) -> None:
        """Count a write of the log that failed."""
        self._unwritten.inc()

    def unsaved(self, error: Exception) -> None:
        """Count a snapshot that failed."""
        self._unsaved.inc()

    # predictions

    def predicted(
        self,
        xs: Sequence[Any],
        modality: str,
        answers: Sequence[Any],
        ids: Sequence[Any],
        columns: Sequence[str] = (),
    ) -> None:
        """Keep predictions for the page; of objects the columns that are read, or all where there are none."""
        self._predictions.inc(len(xs))
        now = datetime.now(timezone.utc).strftime("%H:%M:%S")
        with self._lock:
            for x, answer, id in list(zip(xs, answers, ids, strict=True))[-RECENT:]:
                shown = answer.probability and max(answer.probability.values())
                entry = {"time": now, "id": id, "x": excerpt(x, modality, columns), "prediction": answer.prediction}
                key = next(reversed(self._recent), 0) + 1
                self._recent[key] = {**entry, "probability": shown, "label": None}
                if id is not None:
                    self._by_id[id] = key
                if len(self._recent) > RECENT:
                    _, old = self._recent.popitem(last=False)
                    if self._by_id.get(old["id"], key) not in self._recent:
                        del self._by_id[old["id"]]

    def labelled(self, id: Any, y: Any) -> None:
        """Show the label of a prediction."""
        with self._lock:
            if id in self._by_id:
                self._recent[self._by_id[id]]["label"] = y

    # figures

    def age(self) -> float:
        """Return how many seconds old the figures are, by a clock that does not jump."""
        return time.monotonic() - self._taken

    def observe(self, learner: OnlineLearner, position: int) -> None:
        """Take the figures of now."""
        metrics, drift, watched = learner.metrics, learner.drift, learner.watched
        main = next((name for name in metrics if name.startswith("online_")), None)
        with self._lock:
            self.position, self._taken = position, time.monotonic()
            self._figures = {"metrics": metrics, "drift": drift, "main": main, "classes": len(learner.classes)}
            self._figures["watched"] = watched
            if metrics["samples"] and (not self._history or self._history[-1]["samples"] != metrics["samples"]):
                point = {"samples": metrics["samples"], "value": main and metrics[main]}
                self._history.append({**point, "statistic": drift["statistic"]})

    def status(self) -> dict[str, Any]:
        """Return everything for the page."""
        with self._lock:
            recent = [dict(entry) for entry in reversed(self._recent.values())]
            history = list(self._history)
        return {
            **self._figures, "history": history, "recent": recent, "rejected": self._reason,
            "seconds": time.monotonic() - self._started,
        }  # fmt: skip


class Figures:
    """The figures as gauges, for a registry of Prometheus.

    Args:
        status: Returns the status of the service.
    """

    def __init__(self, status: Any) -> None:
        self._status = status

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges."""
        status = self._status()
        gauges = {
            "backlog": (status["backlog"], "Operations that wait to be learned."),
            "log_position": (status["position"], "Operations learned."),
            "snapshot_position": (status["snapshot_position"], "Operations in the last snapshot."),
            "up": (status["state"] != "stopped", "Whether it learns: 1, or 0 where it has stopped."),
            "classes": (status["classes"], "Classes known."),
            "drift_statistic": (status["drift"]["statistic"], "Page's statistic of drift, in nats."),
            "drift_threshold": (status["drift"]["threshold"], "Where drift is detected, in nats."),
            "drifts_detected": (status["drift"]["detected"], "Drifts detected."),
        }
        gauges |= {name: (value, "Of the learner; see docs/serve.md.") for name, value in status["metrics"].items()}
        watched = status["watched"]
        about = "Over the last predictions; see docs/watching.md."
        gauges |= {f"window_{name}": (value, about) for name, value in watched["window"].items()}
        gauges["rollbacks"] = (watched["rollbacks"], "Times that an earlier state was restored.")
        alarms = GaugeMetricFamily("filtune_alarm", "Whether the alarm of a rule is on.", labels=["rule"])
        for alarm in watched["alarms"]:
            alarms.add_metric([alarm["rule"]], float(alarm["firing"]))
        yield alarms
        for name, (value, about) in gauges.items():
            yield GaugeMetricFamily(f"filtune_{name}", about, value=float(value))


def exposition(monitor: ServiceMonitor) -> bytes:
    """Return the metrics in Prometheus' text format."""
    return generate_latest(monitor.registry)
