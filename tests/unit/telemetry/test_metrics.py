"""Metrics: isolated, complete, with labels that stay few."""

from calltag.core.broker.rabbitmq.metrics import BrokerMetrics
from calltag.core.http.metrics import HttpMetrics, ServerMetrics
from calltag.core.telemetry.metrics import CONTENT_TYPE, LATENCY_S, SIZES, Metrics
from calltag.gateway.metrics import GatewayMetrics
from calltag.notifier.metrics import NotifierMetrics
from calltag.worker.metrics import WorkerMetrics

ALLOWED_LABELS = {
    "operation",
    "outcome",
    "partition",
    "code",
    "route",
    "status",
    "channel",
    "limit",
    "part",
    "reason",
    "transport",
}


def with_all_families() -> Metrics:
    metrics = Metrics()
    for service in (GatewayMetrics, WorkerMetrics, NotifierMetrics, BrokerMetrics, HttpMetrics, ServerMetrics):
        service(metrics)
    return metrics


def test_every_family_has_the_prefix_and_a_description() -> None:
    families = list(with_all_families().registry.collect())
    assert all(family.name.startswith("calltag_") and family.documentation.endswith(".") for family in families)
    assert len(families) > 50


def test_labels_are_of_the_kinds_that_have_few_values() -> None:
    labels = {label for family in with_all_families()._families.values() for label in family._labelnames}
    assert labels == ALLOWED_LABELS


def test_a_process_exports_the_families_of_its_own_services() -> None:
    metrics = Metrics()
    WorkerMetrics(metrics)
    names = {family.name for family in metrics.registry.collect()}
    assert "calltag_commit_seconds" in names
    assert not [name for name in names if name.startswith(("calltag_cometd_", "calltag_http_", "calltag_requests_"))]


def test_a_notifier_exports_no_durations_of_requests() -> None:
    metrics = Metrics()
    NotifierMetrics(metrics).answered("/genesys/cometd", 200)
    names = {family.name for family in metrics.registry.collect()}
    assert "calltag_http_requests" in names
    assert "calltag_http_request_seconds" not in names, "most of them would be the time of a suspended connect"


def test_two_services_of_a_process_share_a_family() -> None:
    metrics = Metrics()
    for _ in range(2):
        HttpMetrics(metrics).answered("/", 200, 0.1)
    assert metrics.registry.get_sample_value("calltag_http_requests_total", {"route": "/", "status": "200"}) == 2


def test_two_processes_in_one_test_do_not_meet() -> None:
    one, two = Metrics(), Metrics()
    WorkerMetrics(two)
    WorkerMetrics(one).partitions_fenced.inc()
    assert one.registry.get_sample_value("calltag_partitions_fenced_total") == 1
    assert two.registry.get_sample_value("calltag_partitions_fenced_total") == 0


def test_what_took_place_many_times_counts_as_often() -> None:
    once, at_once = (Metrics().bulk_histogram("took_seconds", "Time.", LATENCY_S) for _ in range(2))
    for amount, times in ((0.001, 3), (0.7, 2), (60.0, 1)):
        for _ in range(times):
            once.observe(amount)
        at_once.observe_many(amount, times)
    samples = [
        [
            (each.name, each.labels, round(each.value, 6))
            for each in next(iter(histogram.collect())).samples
            if not each.name.endswith("_created")
        ]
        for histogram in (once, at_once)
    ]
    assert samples[0] == samples[1]


def test_the_exposition() -> None:
    metrics = Metrics()
    metrics.counter("operations", "Operations.", "operation", "code").labels("Hold", 2).inc()
    sessions = metrics.gauge("sessions", "Sessions.", "transport")
    metrics.before_scrape(lambda: sessions.labels("websocket").set(3))
    metrics.histogram("batch", "Operations of a batch.", SIZES).observe(7)
    text = metrics.exposition().decode()
    assert 'calltag_operations_total{code="2",operation="Hold"} 1.0' in text
    assert 'calltag_sessions{transport="websocket"} 3.0' in text
    assert 'calltag_batch_bucket{le="10.0"} 1.0' in text
    assert CONTENT_TYPE.startswith("text/plain")
