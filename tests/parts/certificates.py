"""An authority of the tests' own, and certificates from it, as PEM files."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Certificate:
    """Chain and key."""

    cert: Path
    key: Path


class Authority:
    """Issues certificates into a folder; its own certificate is the file `ca`."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self._ca = trustme.CA()
        self.ca = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(str(self.ca))

    def issue(self, name: str, *hosts: str, expired: bool = False) -> Certificate:
        """A certificate for the hosts, in files of that name; what was there before is written over."""
        issued = self._ca.issue_cert(*hosts, not_after=LONG_AGO if expired else None)
        certificate = Certificate(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        for file, content in ((certificate.cert, chain), (certificate.key, issued.private_key_pem.bytes())):
            file.write_bytes(content)
            file.chmod(0o644)
        return certificate


def encrypted(key: Path, password: str) -> Path:
    """The key in a file of its own, encrypted."""
    loaded = load_pem_private_key(key.read_bytes(), None)
    locked = key.with_suffix(".locked")
    locked.write_bytes(
        loaded.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password.encode()))
    )
    return locked
