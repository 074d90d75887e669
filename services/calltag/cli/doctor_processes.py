"""Checks of `calltag doctor` on the running processes, their clocks, the public address and the TLS files."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from calltag.cli.output import Finding, bad, ok, warn
from calltag.core.backends import client_tls, is_loopback, open_client, server_tls
from calltag.core.process.tls import TlsError
from calltag.core.settings import Settings
from calltag.core.store.keys import Keys
from calltag.core.store.ports import StoreUnavailable
from calltag.core.store.processes import RedisProcesses, RunningProcess

_SERVICES: Final = ("gateway", "worker", "notifier")
_NOTICED_MS: Final = 500
"""Difference of clocks from which ages of operations mislead gateways."""
_BAD_MS: Final = 5_000
_RENEW_BEFORE: Final = timedelta(days=14)


async def process_findings(settings: Settings) -> list[Finding]:
    """Return findings on processes and clocks. Other checks report that Redis is unavailable."""
    client = open_client(settings, max_connections=2)
    try:
        processes = RedisProcesses(client, Keys(settings.redis.key_prefix))
        running = await processes.running()
        ahead_ms = round(time.time() * 1_000) - await processes.now_ms()
    except StoreUnavailable:
        return []
    finally:
        await client.close()
    return [*_versions(running), *_clocks(running, ahead_ms)]


def _versions(running: Sequence[RunningProcess]) -> Iterator[Finding]:
    if not running:
        yield warn("no process of calltag runs on this Redis")
        return
    services = Counter(each.service for each in running)
    versions = sorted({each.version for each in running})
    listed = ", ".join(f"{count} {service}" for service, count in sorted(services.items()))
    if len(versions) > 1:
        yield warn(f"running: {listed}, with versions {' and '.join(versions)}: an upgrade is not complete")
    else:
        yield ok(f"running: {listed}, version {versions[0]}")
    missing = [each for each in _SERVICES if not services[each] and not services["serve"]]
    if missing:
        yield warn(f"no {' and no '.join(missing)} runs")


def _clocks(running: Sequence[RunningProcess], ahead_ms: int) -> Iterator[Finding]:
    clocks = [
        ("this machine", ahead_ms),
        *((f"{each.service} {each.instance}", each.clock_ahead_ms) for each in running),
    ]
    off = [(name, ms) for name, ms in clocks if abs(ms) >= _NOTICED_MS]
    for name, ms in off:
        text = (
            f"the clock of {name} is {abs(ms) / 1_000:.1f} s {'ahead of' if ms > 0 else 'behind'} that of Redis: "
            "ages of operations are wrong; let both follow a time server"
        )
        yield bad(text) if abs(ms) >= _BAD_MS else warn(text)
    if not off:
        yield ok(f"the clocks of {len(clocks)} processes agree with that of Redis")


def address_findings(settings: Settings) -> Iterator[Finding]:
    """Yield findings on the address that clients use."""
    url = urlsplit(settings.public_url)
    if is_loopback(settings.gateway.host):
        return
    if is_loopback(url.hostname or ""):
        yield warn(
            f"CALLTAG_PUBLIC_URL is {settings.public_url}: the `uri`s of resources lead clients to their own machine"
        )
    elif url.scheme == "http":
        yield warn("CALLTAG_PUBLIC_URL begins with http: passwords and user data cross the network in clear text")


def tls_findings(settings: Settings) -> Iterator[Finding]:
    """Yield findings on certificates and keys: whether they can be used, and until when."""
    server = server_tls(settings)
    sections = [(name, getattr(settings, name).tls) for name in ("amqp", "redis")]
    given = [(name, chosen) for name, chosen in sections if chosen.ca_file or chosen.cert_file]
    try:
        if server is not None:
            server.context()
        for name, chosen in given:
            client_tls(name, chosen).context()
    except TlsError as error:
        yield bad(str(error))
        return
    files = [settings.tls.cert_file, settings.tls.client_ca_file]
    files += [file for _, chosen in given for file in (chosen.cert_file, chosen.ca_file)]
    yield from certificate_findings(each for each in dict.fromkeys(files) if each is not None)


def certificate_findings(files: Iterable[Path], now: datetime | None = None) -> Iterator[Finding]:
    """Yield a finding on the first certificate of each file to end."""
    from cryptography.x509 import load_pem_x509_certificates

    at = now or datetime.now(UTC)
    for file in files:
        ends = min(each.not_valid_after_utc for each in load_pem_x509_certificates(file.read_bytes()))
        text = f"a certificate in {file} is valid until {ends:%Y-%m-%d %H:%M} UTC"
        if ends <= at:
            yield bad(f"a certificate in {file} ended at {ends:%Y-%m-%d %H:%M} UTC")
        elif ends - at < _RENEW_BEFORE:
            yield warn(f"{text}: renew it")
        else:
            yield ok(text)
