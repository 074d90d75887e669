"""Findings on running processes, clocks, addresses and certificates."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from calltag.cli.doctor_processes import _clocks, _versions, address_findings, certificate_findings, tls_findings
from calltag.cli.output import Finding
from calltag.core.settings import Settings, load_settings
from calltag.core.store.processes import RunningProcess

GATEWAY = RunningProcess("a-1", "gateway", "1.0.0", "a", "10.0.0.1", 1, 9090, 0)
WORKER, NOTIFIER = replace(GATEWAY, service="worker"), replace(GATEWAY, service="notifier")


def lines(findings: object) -> list[str]:
    assert not isinstance(findings, str)
    return [each.line for each in findings if isinstance(each, Finding)]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("running", "told"),
    [
        ([], ["warn   no process of calltag runs on this Redis"]),
        ([GATEWAY, WORKER, NOTIFIER, WORKER], ["ok     running: 1 gateway, 1 notifier, 2 worker, version 1.0.0"]),
        ([replace(GATEWAY, service="serve")], ["ok     running: 1 serve, version 1.0.0"]),
        (
            [GATEWAY, replace(WORKER, version="1.1.0")],
            [
                "warn   running: 1 gateway, 1 worker, with versions 1.0.0 and 1.1.0: an upgrade is not complete",
                "warn   no notifier runs",
            ],
        ),
    ],
)
def test_processes_and_their_versions(running: list[RunningProcess], told: list[str]) -> None:
    assert lines(_versions(running)) == told


def test_clocks() -> None:
    assert lines(_clocks([GATEWAY], 499)) == ["ok     the clocks of 2 processes agree with that of Redis"]
    off = [replace(GATEWAY, clock_ahead_ms=-7_200), replace(WORKER, clock_ahead_ms=700)]
    assert [each.partition(":")[0] for each in lines(_clocks(off, 0))] == [
        "bad    the clock of gateway a-1 is 7.2 s behind that of Redis",
        "warn   the clock of worker a-1 is 0.7 s ahead of that of Redis",
    ]


def settings(**values: object) -> Settings:
    return load_settings(**values)


def test_the_address_that_clients_use() -> None:
    everywhere = {"gateway": {"host": "0.0.0.0"}}
    assert lines(address_findings(settings())) == []
    [told] = lines(address_findings(settings(**everywhere)))
    assert told.startswith("warn   CALLTAG_PUBLIC_URL is http://127.0.0.1:8080: ")
    [told] = lines(address_findings(settings(**everywhere, public_url="http://calltag.example.com")))
    assert "in clear text" in told
    assert lines(address_findings(settings(**everywhere, public_url="https://calltag.example.com"))) == []


def certificate(folder: Path, ends_in: timedelta) -> Path:
    file = folder / "certificate.pem"
    issued = trustme.CA().issue_cert("calltag", not_after=datetime.now(UTC) + ends_in)
    issued.private_key_and_cert_chain_pem.write_to_path(str(file))
    return file


@pytest.mark.parametrize(
    ("ends_in", "level", "words"),
    [
        (timedelta(days=-1), "bad  ", "ended at"),
        (timedelta(days=3), "warn ", "renew it"),
        (timedelta(days=30), "ok   ", "is valid until"),
    ],
)
def test_certificates_are_judged_by_their_end(tmp_path: Path, ends_in: timedelta, level: str, words: str) -> None:
    file = certificate(tmp_path, ends_in)
    [told] = lines(certificate_findings([file]))
    assert told.startswith(level)
    assert words in told
    assert str(file) in told


def test_the_files_of_the_settings_are_looked_at(tmp_path: Path) -> None:
    file = certificate(tmp_path, timedelta(days=30))
    [told] = lines(tls_findings(settings(tls={"cert_file": file})))
    assert "is valid until" in told
    [told] = lines(tls_findings(settings(amqp={"tls": {"ca_file": tmp_path / "none.pem"}})))
    assert told.startswith("bad    CALLTAG_AMQP__TLS__CA_FILE: ")
    assert lines(tls_findings(settings())) == []
