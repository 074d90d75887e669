"""Bayeux messages in forms, in fields named `message`, for clients that cannot send JSON."""

from collections.abc import Sequence
from typing import Final
from urllib.parse import parse_qs

from calltag.core.bayeux.codec import CodecError

FORM: Final = b"application/x-www-form-urlencoded"
_MAX_FIELDS: Final = 100
_BYTE_ORDER_MARK: Final = "\ufeff"


def messages_of_form(body: bytes, what: str = "form") -> bytes:
    """Return the JSON array of all messages in a form or in a query, which has the same syntax. Raises CodecError."""
    fields = _fields(body, what)
    if not fields:
        raise CodecError(f"the {what} has no field named message")
    parts = [field.removeprefix(_BYTE_ORDER_MARK).strip() for field in fields]
    inner = [part[1:-1] if part.startswith("[") and part.endswith("]") else part for part in parts]
    return f"[{','.join(part for part in inner if part.strip())}]".encode()


def _fields(body: bytes, what: str) -> Sequence[str]:
    try:
        return parse_qs(body.decode(), errors="strict", max_num_fields=_MAX_FIELDS).get("message", [])
    except UnicodeDecodeError:
        raise CodecError(f"the {what} is not UTF-8") from None
    except ValueError:
        raise CodecError(f"the {what} has more than {_MAX_FIELDS} fields") from None
