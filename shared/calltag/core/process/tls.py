"""TLS contexts for servers that calltag uses and for its own port, and explanations of TLS errors.

TLS 1.2 or higher; certificates of servers are always verified, with their host names."""

import asyncio
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_OF_TIME: Final = {
    9: "its certificate is not valid yet: set the clocks right",
    10: "its certificate has expired: renew it on the server, or set the clock here right",
}
_UNKNOWN_ISSUER: Final = frozenset({2, 18, 19, 20, 21})
_WRONG_HOST: Final = frozenset({62, 64})
"""Codes of X509_verify_cert, see openssl-verification-options(1)."""

_OF_CLIENTS: Final = ("CERTIFICATE", "UNKNOWN_CA", "HANDSHAKE_FAILURE")
"""Parts of the alerts with which a server refuses a wrong or missing client certificate."""


class TlsError(ValueError):
    """Files for TLS are not usable; the message names the setting, the file and the problem."""


@dataclass(frozen=True, slots=True)
class OwnCertificate:
    """A certificate chain and its key, in PEM; the key may be in the same file."""

    cert_file: Path | None = None
    key_file: Path | None = None
    key_password: str | None = field(default=None, repr=False)

    def load_into(self, context: ssl.SSLContext, settings: str) -> None:
        """Load the certificate into the context, if there is one. `settings` is the prefix of the settings' names.

        Raises TlsError.
        """
        if self.cert_file is None:
            if self.key_file is not None:
                raise TlsError(f"{settings}KEY_FILE is set, and {settings}CERT_FILE is not")
            return
        for name, file in (("CERT_FILE", self.cert_file), ("KEY_FILE", self.key_file)):
            _require_readable(file, f"{settings}{name}")
        is_encrypted = False

        def password() -> str:
            # Without this, OpenSSL prompts for the password of an encrypted key on the terminal.
            nonlocal is_encrypted
            is_encrypted = True
            return self.key_password or ""

        try:
            context.load_cert_chain(self.cert_file, self.key_file, password)
        except (ssl.SSLError, ValueError) as error:
            reason = f"the key is encrypted, and {settings}KEY_PASSWORD is not set or wrong"
            raise TlsError(
                f"{settings}CERT_FILE, {settings}KEY_FILE: {reason if is_encrypted else _unusable(error)}"
            ) from None


@dataclass(frozen=True, slots=True)
class ClientTls:
    """Servers are verified by `ca_file` (PEM), else by the system's authorities; `own` is the client certificate."""

    settings: str
    """Prefix of the settings' names, such as `CALLTAG_AMQP__TLS__`."""
    ca_file: Path | None = None
    own: OwnCertificate = OwnCertificate()

    def context(self) -> ssl.SSLContext:
        """Raises TlsError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.ca_file is None:
            context.load_default_certs()
        else:
            _load_authorities(context, self.ca_file, f"{self.settings}CA_FILE")
        self.own.load_into(context, self.settings)
        return context

    def explained(self, error: BaseException) -> str | None:
        """Return what to fix if TLS failed, anywhere in the error's causes; else None."""
        return next((text for each in _causes(error) if (text := self._explained(each))), None)

    def _explained(self, error: BaseException) -> str | None:
        match error:
            case ssl.SSLCertVerificationError():
                return self._of_certificate(error.verify_code, error.verify_message)
            case ssl.SSLError():
                return self._of_handshake(error.reason or str(error))
            # In TLS 1.3 a server refuses a client after the handshake; the alert is lost with the connection.
            case ConnectionResetError() | BrokenPipeError() | asyncio.IncompleteReadError() if not self.own.cert_file:
                return f"it closed the connection; if it demands a certificate of its clients, {self._own_settings()}"
            case _:
                return None

    def _of_certificate(self, code: int, message: str) -> str:
        if code in _UNKNOWN_ISSUER:
            return (
                "its certificate is not from an authority that is trusted here: "
                f"{self.settings}CA_FILE names the authority's certificate"
            )
        if code in _WRONG_HOST:
            host = "its certificate is for another host: use a host name in the URL that is in the certificate"
            return f"{host} ({message})"
        return _OF_TIME.get(code, f"its certificate is refused here: {message}")

    def _of_handshake(self, reason: str) -> str:
        if "ALERT" in reason and any(word in reason for word in _OF_CLIENTS):
            return f"it refuses the certificate shown, or demands one ({reason}): {self._own_settings()}"
        if reason in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"}:
            return "it does not speak TLS on this port: the URL names a port without TLS, or ought to be without"
        return f"TLS failed: {reason}"

    def _own_settings(self) -> str:
        return f"{self.settings}CERT_FILE and {self.settings}KEY_FILE name it"


@dataclass(frozen=True, slots=True)
class ServerTls:
    """The server's certificate and, with `client_ca_file`, the authority of required client certificates."""

    own: OwnCertificate
    client_ca_file: Path | None = None
    settings: str = "CALLTAG_TLS__"

    def context(self) -> ssl.SSLContext:
        """Raises TlsError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.own.load_into(context, self.settings)
        if self.client_ca_file is not None:
            _load_authorities(context, self.client_ca_file, f"{self.settings}CLIENT_CA_FILE")
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def changed_at(self) -> float:
        """Return the last modification time of the files, in seconds by the file system; 0 if one is missing."""
        try:
            return max(file.stat().st_mtime for file in (self.own.cert_file, self.own.key_file) if file is not None)
        except (OSError, ValueError):
            return 0.0


def _load_authorities(context: ssl.SSLContext, file: Path, setting: str) -> None:
    _require_readable(file, setting)
    try:
        context.load_verify_locations(file)
    except ssl.SSLError as error:
        raise TlsError(f"{setting}: {file} holds no certificates in PEM form ({error.reason})") from None


def _require_readable(file: Path | None, setting: str) -> None:
    if file is None:
        return
    try:
        file.open("rb").close()
    except OSError as error:
        raise TlsError(f"{setting}: {file} cannot be read: {error.strerror}") from None


def _unusable(error: ssl.SSLError | ValueError) -> str:
    reason = error.reason if isinstance(error, ssl.SSLError) else str(error)
    if reason == "KEY_VALUES_MISMATCH":
        return "the key does not belong to the certificate"
    return f"not a certificate and its key in PEM form ({reason or error})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
