"""The dashboard: up to date, with queries that parse and metrics that there are."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import promql_parser
import pytest
import yaml

import dashboards

ROOT: Final = Path(__file__).parents[3]
BOARD: Final[dict[str, Any]] = json.loads(dashboards.FILE.read_text())
KNOWN: Final = set(re.findall(r"^\| `(calltag_\w+)`", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))
_SUFFIX: Final = re.compile(r"_(bucket|sum|count)$")


def panels() -> Iterator[dict[str, Any]]:
    for panel in BOARD["panels"]:
        yield from [panel] if panel["type"] != "row" else panel["panels"]


QUERIES: Final = {
    **{f"{panel['title']}: {each['legendFormat']}": each["expr"] for panel in panels() for each in panel["targets"]},
    **{
        rule["alert"]: rule["expr"]
        for group in yaml.safe_load((dashboards.FILE.parents[1] / "alerts.yaml").read_text())["groups"]
        for rule in group["rules"]
    },
}


def test_the_file_is_up_to_date() -> None:
    assert dashboards.FILE.read_text() == dashboards.dashboard_text()


def test_every_row_is_there() -> None:
    assert len(list(panels())) == sum(map(len, dashboards.ROWS.values()))
    assert len(QUERIES) > 40


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_queries_parse_and_ask_for_metrics_that_there_are(query: str) -> None:
    text = query.replace("$__rate_interval", "5m").replace("$namespace", ".*")
    promql_parser.parse(text)
    asked = set(re.findall(r"\bcalltag_\w+", query))
    assert asked
    assert {name if name in KNOWN else _SUFFIX.sub("", name) for name in asked} <= KNOWN


def test_panels_have_titles_units_and_the_chosen_source() -> None:
    for panel in panels():
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert {each["datasource"]["uid"] for each in panel["targets"]} == {"${datasource}"}
