"""Who is asked for a password by the browser, and who is told that access is denied."""

import pytest
from starlette.datastructures import Headers

from calltag.gateway.authentication import is_by_script


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"accept": "*/*"}, False),
        ({}, False),
        ({"accept": "text/html,application/xhtml+xml", "sec-fetch-mode": "navigate"}, False),
        ({"accept": "text/html,application/json"}, False),
        ({"accept": "*/*", "sec-fetch-mode": "cors"}, True),
        ({"accept": "*/*", "sec-fetch-mode": "same-origin"}, True),
        ({"accept": "*/*", "x-requested-with": "XMLHttpRequest"}, True),
        ({"accept": "*/*", "origin": "https://desktop.example.com"}, True),
        ({"accept": "application/json, text/plain, */*"}, True),
    ],
)
def test_a_script_is_told_apart_from_a_person(headers: dict[str, str], *, expected: bool) -> None:
    assert is_by_script(Headers(headers)) is expected
