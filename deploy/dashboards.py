"""The dashboard for Grafana, as code: `python deploy/dashboards.py` writes it, `--check` fails if it is out of date."""

import sys
from pathlib import Path
from typing import Final, NamedTuple

from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, QueryVariable, Row
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.timeseries import Panel as Timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh

FILE: Final = Path(__file__).resolve().parent / "helm" / "calltag" / "files" / "dashboards" / "calltag.json"
_SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
_WIDTH, _HEIGHT = 8, 7
_OF: Final = '{namespace=~"$namespace"}'


class Graph(NamedTuple):
    """A panel: queries by their legend, all in one unit."""

    title: str
    unit: str
    queries: dict[str, str]
    description: str = ""


def _rate(name: str, *by: str) -> str:
    grouped = f" by ({', '.join(by)})" if by else ""
    return f"sum{grouped} (rate(calltag_{name}{_OF}[$__rate_interval]))"


def _quantile(quantile: float, name: str) -> str:
    return f"histogram_quantile({quantile}, sum by (le) (rate(calltag_{name}_bucket{_OF}[$__rate_interval])))"


def _latency(name: str) -> dict[str, str]:
    return {f"p{round(each * 100)}": _quantile(each, name) for each in (0.5, 0.95, 0.99)}


ROWS: Final = {
    "Health": [
        Graph("Ready pods", "none", {"ready": f"sum(min by (pod) (calltag_readiness_check{_OF}))"}),
        Graph("Failing checks", "none", {"{{check}}": f"count by (check) (calltag_readiness_check{_OF} == 0)"}),
        Graph(
            "Parked operations and blocked calls",
            "none",
            {"parked": _rate("operations_parked_total"), "blocked": f"sum(calltag_calls_blocked{_OF})"},
            "Anything above 0 waits for an operator: calltag parked ls",
        ),
    ],
    "Gateways": [
        Graph("Accepted operations", "ops", {"{{operation}}": _rate("operations_accepted_total", "operation")}),
        Graph("Requests by status", "reqps", {"{{status}}": _rate("http_requests_total", "status")}),
        Graph("Time to answer", "s", _latency("http_request_seconds")),
        Graph("Refusals at a limit", "reqps", {"{{limit}}": _rate("requests_limited_total", "limit")}),
        Graph("Fullest partition", "none", {"operations": f"max(calltag_backlog_operations{_OF})"}),
        Graph("Client connections", "none", {"{{pod}}": f"sum by (pod) (calltag_http_connections{_OF})"}),
    ],
    "Workers": [
        Graph("Applied operations", "ops", {"{{pod}}": _rate("operations_applied_total", "pod")}),
        Graph("Oldest operation", "s", {"{{pod}}": f"max by (pod) (calltag_oldest_operation_seconds{_OF})"}),
        Graph("Partitions", "none", {"{{pod}}": f"sum by (pod) (calltag_partitions_owned{_OF})"}),
        Graph("Commit in Redis", "s", _latency("commit_seconds")),
        Graph("Operations in a commit", "none", _latency("commit_operations")),
        Graph("Retries", "ops", {"{{pod}}": _rate("operations_retried_total", "pod")}),
    ],
    "Notifiers": [
        Graph("Sessions", "none", {"{{transport}}": f"sum by (transport) (calltag_cometd_sessions{_OF})"}),
        Graph("Delivered messages", "ops", {"{{channel}}": _rate("deliveries_total", "channel")}),
        Graph("Acceptance to delivery", "s", _latency("delivery_seconds")),
        Graph("Sessions behind", "none", {"{{pod}}": f"sum by (pod) (calltag_cometd_sessions_behind{_OF})"}),
        Graph("Handshakes", "reqps", {"{{pod}}": _rate("cometd_handshakes_total", "pod")}),
        Graph("Refused messages", "reqps", {"{{code}}": _rate("cometd_refused_total", "code")}),
    ],
    "Broker": [
        Graph("Missing consumers", "none", {"{{pod}}": f"sum by (pod) (calltag_broker_consumers_missing{_OF})"}),
        Graph("RabbitMQ blocks", "none", {"{{pod}}": f"max by (pod) (calltag_broker_blocked{_OF})"}),
        Graph("Recoveries", "ops", {"{{part}} {{reason}}": _rate("broker_recoveries_total", "part", "reason")}),
    ],
}


def _panel(graph: Graph) -> Timeseries:
    panel = Timeseries().title(graph.title).description(graph.description).unit(graph.unit).datasource(_SOURCE)
    for name, (legend, query) in zip("ABC", graph.queries.items(), strict=False):
        panel = panel.with_target(Dataquery().expr(query).legend_format(legend).ref_id(name).datasource(_SOURCE))
    return panel.span(_WIDTH).height(_HEIGHT).min(0)


def dashboard_text() -> str:
    """Return the dashboard as JSON."""
    namespaces = QueryVariable("namespace").query("label_values(calltag_readiness_check, namespace)")
    board = (
        Dashboard("calltag")
        .uid("calltag")
        .tags(["calltag"])
        .refresh("30s")
        .time("now-1h", "now")
        .with_variable(DatasourceVariable("datasource").type("prometheus"))
        .with_variable(
            namespaces.datasource(_SOURCE)
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    )
    for title, graphs in ROWS.items():
        board = board.with_row(Row(title))
        for graph in graphs:
            board = board.with_panel(_panel(graph))
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


def main() -> int:
    """Write the dashboard, or compare it."""
    text = dashboard_text()
    if "--check" in sys.argv[1:]:
        if not FILE.exists() or FILE.read_text() != text:
            sys.stderr.write("deploy/helm/calltag/files/dashboards is out of date; run: make docs\n")
            return 1
        return 0
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
