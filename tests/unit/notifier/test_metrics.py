"""What is counted has few labels, however many users there are."""

from calltag.core.telemetry.metrics import Metrics
from calltag.notifier.metrics import NotifierMetrics


def test_calls_of_others_are_counted_under_one_label() -> None:
    metrics = Metrics()
    counting = NotifierMetrics(metrics)
    for channel in ("/v2/users/alice/calls", "/v2/users/bob/calls", "/v2/me/calls"):
        counting.delivered(channel, 2)
    counted = {
        sample.labels["channel"]: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "calltag_deliveries_total"
    }
    assert counted == {"/v2/users/{id}/calls": 4, "/v2/me/calls": 2}
