"""What a running service counts, as its operators see it."""

from collections.abc import Mapping

import httpx
from prometheus_client.parser import text_string_to_metric_families

from parts.system import System


async def sample(system: System, service: str, name: str, **labels: str) -> float:
    """The sum of the samples of that name that have these labels, on /metrics of the service; 0 if there is none."""
    port = system.programs[service].environment["CALLTAG_INTERNAL__PORT"]
    async with httpx.AsyncClient(verify=False) as http:
        text = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
    return sum(
        each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
        if each.name == name and _has(each.labels, labels)
    )


def _has(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(labels.get(name) == value for name, value in wanted.items())
