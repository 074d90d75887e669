"""All targets, by name."""

from collections.abc import Mapping
from typing import Final

from fuzz.target import Target
from fuzz.targets import (
    channels,
    client_ids,
    codec,
    credentials,
    directory,
    forms,
    headers,
    http_head,
    hub,
    operations,
    strict_json,
    switch_events,
    websocket,
    wire,
)

_MODULES: Final = (
    channels, client_ids, codec, credentials, directory, forms, headers, http_head, hub, operations, strict_json,
    switch_events, websocket, wire,
)  # fmt: skip
TARGETS: Final[Mapping[str, Target]] = {module.TARGET.name: module.TARGET for module in _MODULES}
