"""Request framing: each row of the table is sent in one packet, byte by byte, and between two good requests.

A server and a proxy in front of it that disagree on framing allow request smuggling.
"""

import pytest

from parts.endpoints import Endpoint
from parts.request_checks import differences
from parts.request_table import ROWS, Row


@pytest.mark.parametrize("endpoint", ["gateway", "notifier"], indirect=True)
@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_each_request_is_answered_once_and_malformed_ones_are_refused(row: Row, endpoint: Endpoint) -> None:
    if found := await differences(row, endpoint):
        pytest.fail(f"{row.name} (RFC {row.rfc}):\n" + "\n".join(found), pytrace=False)


@pytest.mark.parametrize("endpoint", ["tls"], indirect=True)
@pytest.mark.parametrize("row", ROWS[::6], ids=str)
async def test_the_table_holds_over_tls(row: Row, endpoint: Endpoint) -> None:
    if found := await differences(row, endpoint):
        pytest.fail(f"{row.name} (RFC {row.rfc}):\n" + "\n".join(found), pytrace=False)
