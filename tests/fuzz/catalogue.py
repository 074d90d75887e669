"""All targets, by name."""

from collections.abc import Mapping
from typing import Final

from fuzz.target import Target
from fuzz.targets import (
    bayeux,
    channels,
    client_ids,
    codec,
    cometd_http,
    credentials,
    directory,
    forms,
    headers,
    http_head,
    operations,
    strict_json,
    switch_events,
    websocket,
    wire,
)

_MODULES: Final = (
    bayeux, channels, client_ids, codec, cometd_http, credentials, directory, forms, headers, http_head, operations,
    strict_json, switch_events, websocket, wire,
)  # fmt: skip
TARGETS: Final[Mapping[str, Target]] = {module.TARGET.name: module.TARGET for module in _MODULES}
