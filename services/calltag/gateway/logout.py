"""The end of a login: its session, its cookie, and the CometD sessions that it authenticated."""

from dataclasses import dataclass
from hashlib import sha256
from typing import cast

from calltag.core.broker.ports import Broker, BrokerError, NodeId
from calltag.core.contracts.operations import NODE, NodeMessage, NoticeKind, SessionNotice
from calltag.core.identity.authentication import Authenticator, Identified
from calltag.core.store.client import RedisClient
from calltag.core.store.keys import Keys
from calltag.core.telemetry.conditions import Condition

_NOT_SENT = Condition("logout_notice_not_sent", level="info")


@dataclass(frozen=True, slots=True)
class Logout:
    """Ends logins. A CometD session whose node is not reached ends with its next request."""

    authenticator: Authenticator
    client: RedisClient
    keys: Keys
    broker: Broker

    async def log_out(self, known: Identified) -> str:
        """End the login of a request; return the Set-Cookie that removes its cookie. Raises StoreUnavailable."""
        expired = await self.authenticator.log_out(known)
        nodes = cast(
            "set[bytes] | list[bytes]", await self.client.execute("SMEMBERS", self.keys.nodes_of(known.user.id))
        )
        digest = sha256(known.session.token.encode(errors="replace")).hexdigest()
        notice = SessionNotice(kind=NoticeKind.LOGIN_ENDED, user=known.user.id, digest=digest)
        body = NODE.encode(NodeMessage(notices=(notice,)))
        for node in nodes:
            try:
                await self.broker.send(NodeId(node.decode()), body, f"{notice.kind}-{digest[:16]}")
            except BrokerError as error:
                _NOT_SENT.fails(error)
        return expired
