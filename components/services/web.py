"""One short question to an http(s) server, for checks: is it there, does it let us in, what does it say?

No retries: callers want to know now. Nothing of a user and password in an address, or of a token, gets into an
error. The work itself goes through the services' own clients.
"""

from __future__ import annotations

import base64
import http.client
import os
import ssl
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

TIMEOUT = 10.0
LONGEST_ANSWER = 2**20


class Answer(NamedTuple):
    """What a server said; a refusal is an answer too."""

    status: int
    reason: str
    body: bytes


class NoAnswerError(Exception):
    """Nobody who speaks HTTP answers; the text says why."""


class _AsItIs(urllib.request.HTTPErrorProcessor):
    """Raises for no status, and follows no redirect: the login is for this server only."""

    def http_response(self, request: Any, response: Any) -> Any:
        return response

    https_response = http_response


def ask(url: str, *, method: str = "GET", token: str = "", trust: ssl.SSLContext | None = None) -> Answer:
    """Send one request; a user and password in `url` go as a Basic header, else `token` as a Bearer one.

    Args:
        trust: the authorities to trust over https; None: trusted().

    Raises:
        NoAnswerError: nobody answers at `url`, or it is not an http(s) address.
    """
    if not url.startswith(("http://", "https://")):
        raise NoAnswerError("an http(s) address is expected")
    if not (token.isascii() and token.isprintable()):
        raise NoAnswerError("the token has a line break, or another character that no header may carry")
    try:
        parts = urlsplit(url)
        login, _, host = parts.netloc.rpartition("@")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if login:
            headers["Authorization"] = f"Basic {base64.b64encode(unquote(login).encode()).decode()}"
        bare = parts._replace(netloc=host).geturl()
        request = urllib.request.Request(bare, headers=headers, method=method)  # noqa: S310  # scheme checked
        secure = url.startswith("https://")
        handlers = [urllib.request.HTTPSHandler(context=trust or trusted())] if secure else []
        with urllib.request.build_opener(_AsItIs, *handlers).open(request, timeout=TIMEOUT) as answer:
            return Answer(answer.status, answer.reason, answer.read(LONGEST_ANSWER))
    except OSError as error:
        raise NoAnswerError(str(getattr(error, "reason", error))) from None
    except (ValueError, http.client.InvalidURL):  # their texts quote the address, password and all
        raise NoAnswerError("this is not a valid address; in a password, %2F stands for / and %40 for @") from None
    except http.client.HTTPException:
        raise NoAnswerError("what answers there does not speak HTTP") from None


def trusted(bundle: str = "") -> ssl.SSLContext:
    """The authorities in a file or folder; "": those in REQUESTS_CA_BUNDLE where it is set, else Python's."""
    bundle = bundle or os.environ.get("REQUESTS_CA_BUNDLE", "")
    if bundle and Path(bundle).is_dir():
        return ssl.create_default_context(capath=bundle)
    return ssl.create_default_context(cafile=bundle or None)
