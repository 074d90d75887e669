"""P6 under attack over TLS: hostile clients cost the others nothing, and the process no memory."""

import ssl
from collections.abc import Iterator

import pytest

from chaos.hostile import CONNECTIONS, HTTP, TLS, WEBSOCKETS
from chaos.under_attack import (
    ATTACK_S,
    MOST_GROWTH_MB,
    SETTINGS,
    Victim,
    address,
    attack,
    own_request,
    signed_in,
)
from parts.certificates import Authority
from parts.system import embedded_system

pytestmark = pytest.mark.heavy

PLACES = 160
GROUPS = {"http": HTTP, "connections": CONNECTIONS | TLS, "websockets": WEBSOCKETS}


@pytest.fixture(scope="module")
def by_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    folder = tmp_path_factory.mktemp("tls-under-attack")
    authority = Authority(folder)
    issued = authority.issue("calltag", "localhost")
    files = {"CALLTAG_TLS__CERT_FILE": str(issued.cert), "CALLTAG_TLS__KEY_FILE": str(issued.key)}
    places = {"CALLTAG_MAX_CONNECTIONS": str(PLACES)}
    context = ssl.create_default_context(cafile=str(authority.ca))
    with embedded_system(folder / "system", **(SETTINGS | files | places)) as running:
        running.gateway_url = running.gateway_url.replace("http://127.0.0.1", "https://localhost")
        with signed_in(running, verify=context) as http:
            request = own_request(http)
        yield Victim(
            running.programs["serve"], address(running.gateway_url, context), "/genesys/cometd", request,
            b'"statusCode":0', str(authority.ca),
        )  # fmt: skip


@pytest.mark.timeout(120 + 2 * ATTACK_S)
@pytest.mark.parametrize("group", GROUPS)
async def test_others_are_served_over_tls_under_attack(by_tls: Victim, group: str) -> None:
    # A connection of TLS takes some 100 KB in OpenSSL and in the event loop, whoever opens it.
    await attack(by_tls, GROUPS[group], most_growth_mb=MOST_GROWTH_MB + 0.1 * PLACES)
