"""Bare part: a server that answers a POST, `asgi` without a framework, `fastapi` with one.

`python -m bench.bare.post PORT asgi|fastapi`.
"""

import sys
from typing import Annotated, Any

import uvicorn
from fastapi import Body, FastAPI

ANSWER = b'{"statusCode":0}'


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """Read the body, answer."""
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER})


def fastapi() -> FastAPI:
    """An endpoint that takes JSON and gives some back."""
    app = FastAPI()

    @app.post("/api/v2/me/calls/{call_id}")
    async def operate(call_id: str, body: Annotated[dict[str, Any], Body()]) -> dict[str, int]:
        return {"statusCode": 0}

    return app


if __name__ == "__main__":
    app: Any = asgi if sys.argv[2] == "asgi" else fastapi()
    uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="warning", lifespan="off")
