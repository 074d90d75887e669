"""Metrics: isolated, complete, with labels that stay few."""

from dataclasses import fields

from prometheus_client import CollectorRegistry

from calltag.core.telemetry.metrics import CONTENT_TYPE, Metrics

ALLOWED_LABELS = {
    "by",
    "operation",
    "outcome",
    "partition",
    "code",
    "route",
    "status",
    "channel",
    "check",
    "limit",
    "part",
    "reason",
    "transport",
}

OTHER_NAMES = {"http_seconds": "http_request_seconds", "backlog_age": "backlog_age_seconds"}


def declared(metrics: Metrics) -> dict[str, tuple[str, ...]]:
    """Names without prefix, with their labels."""
    names = [each.name for each in fields(Metrics) if each.name not in ("registry", "observers")]
    return {name: getattr(metrics, name)._labelnames for name in names}


def test_every_field_is_exposed_under_its_own_name() -> None:
    metrics = Metrics()
    exposed = {family.name for family in metrics.registry.collect()}
    assert exposed == {f"calltag_{OTHER_NAMES.get(name, name)}" for name in declared(metrics)}
    assert all(family.documentation for family in metrics.registry.collect())


def test_labels_are_of_the_kinds_that_have_few_values() -> None:
    labels = {label for each in declared(Metrics()).values() for label in each}
    assert labels <= ALLOWED_LABELS


def test_two_processes_in_one_test_do_not_meet() -> None:
    one, two = Metrics(), Metrics()
    one.partitions_fenced.inc()
    assert one.registry.get_sample_value("calltag_partitions_fenced_total") == 1
    assert two.registry.get_sample_value("calltag_partitions_fenced_total") == 0


def test_what_took_place_many_times_counts_as_often() -> None:
    once, at_once = Metrics(), Metrics()
    for amount, times in ((0.001, 3), (0.7, 2), (60.0, 1)):
        for _ in range(times):
            once.delivery_seconds.observe(amount)
        at_once.delivery_seconds.observe_many(amount, times)
    told = [
        [
            (each.name, each.labels, round(each.value, 6))
            for each in next(iter(metrics.delivery_seconds.collect())).samples
            if not each.name.endswith("_created")
        ]
        for metrics in (once, at_once)
    ]
    assert told[0] == told[1]


def test_the_exposition() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.operations_applied.labels("Hold", 2).inc()
    metrics.observers.append(lambda: metrics.cometd_sessions.labels("websocket").set(3))
    metrics.commit_operations.observe(7)
    text = metrics.exposition().decode()
    assert 'calltag_operations_applied_total{code="2",operation="Hold"} 1.0' in text
    assert 'calltag_cometd_sessions{transport="websocket"} 3.0' in text
    assert 'calltag_commit_operations_bucket{le="10.0"} 1.0' in text
    assert CONTENT_TYPE.startswith("text/plain")
