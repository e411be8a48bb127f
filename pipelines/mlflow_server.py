"""`python -m pipelines.mlflow_server PORT STORE ARTIFACTS`: MLflow's own server on 127.0.0.1, behind a login, in one
process.

`mlflow server` keeps a second process for as long as it runs, and every user of the machine may read and change what it
holds, the artifacts in S3 included. User and password are MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, as
MLflow's clients name them. Started by pipelines/embedded.py.
"""

from __future__ import annotations

import os
import sys
from base64 import b64encode
from collections.abc import Awaitable, Callable, MutableMapping
from hmac import compare_digest
from typing import Any

USER, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"  # names of variables
HEALTH = "/health"  # says that the server is up, and nothing else
Scope = MutableMapping[str, Any]
Application = Callable[[Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


def with_login(application: Application, user: str, password: str) -> Application:
    """An ASGI application that answers only those who send user and password (HTTP Basic, as browsers ask for it)."""
    expected = b"Basic " + b64encode(f"{user}:{password}".encode())

    async def guarded(scope: Scope, receive: Any, send: Any) -> None:
        shown = dict(scope.get("headers", ())).get(b"authorization", b"")
        if scope["type"] == "lifespan" or scope["path"] == HEALTH or compare_digest(shown, expected):
            await application(scope, receive, send)
        elif scope["type"] == "http":
            asked = [(b"www-authenticate", b'Basic realm="callforge"'), (b"content-length", b"0")]
            await send({"type": "http.response.start", "status": 401, "headers": asked})
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "websocket.close", "code": 1008})

    return guarded


def serve(port: int, store: str, artifacts: str) -> None:
    """Serve the database `store` (a URI) until a signal comes; artifacts pass through to `artifacts`."""
    import uvicorn
    from mlflow import server

    root = "mlflow-artifacts:/"
    os.environ |= {
        server.BACKEND_STORE_URI_ENV_VAR: store,
        server.REGISTRY_STORE_URI_ENV_VAR: store,
        server.ARTIFACT_ROOT_ENV_VAR: root,
        server.SERVE_ARTIFACTS_ENV_VAR: "true",
        server.ARTIFACTS_DESTINATION_ENV_VAR: artifacts,
    }
    from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(store, store, root)
    guarded = with_login(app, os.environ[USER], os.environ[PASSWORD])
    uvicorn.run(guarded, host="127.0.0.1", port=port, log_level="info", access_log=False)


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2], sys.argv[3])
