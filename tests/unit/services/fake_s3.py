"""FakeStore: a few routes of the S3 API, for stores that differ from the real one of the service tests.

It is not S3: it checks no signature and keeps everything in memory. `refuse` says no to chosen requests.
"""

from __future__ import annotations

import hashlib
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

REASONS = "http://s3.amazonaws.com/doc/2006-03-01/"


@dataclass
class Request:
    """What was asked: `operation` is the S3 name of it."""

    operation: str
    headers: Mapping[str, str]


def never(request: Request) -> None:
    """Refuse nothing."""


@dataclass
class FakeStore:
    """The state of the fake, and its ways."""

    refuse: Callable[[Request], tuple[int, str] | None] = never
    title_case: bool = False  # metadata names as X-Amz-Meta-Sha256
    keeps_metadata: bool = True
    url: str = ""
    objects: dict[str, tuple[bytes, dict[str, str]]] = field(default_factory=dict)
    asked: list[Request] = field(default_factory=list)
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)


@contextmanager
def fake_s3(store: FakeStore, certificate: Path | None = None) -> Iterator[FakeStore]:
    """Serve the store at `store.url` until the block ends."""
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"store": store})) as server:
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        store.url = f"http{'s' if certificate else ''}://localhost:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield store
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: FakeStore

    def answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        chunks = []
        while self.headers.get("Transfer-Encoding") == "chunked":
            chunks.append(self.rfile.read(int(self.rfile.readline().split(b";")[0], 16)))
            self.rfile.readline()
            if not chunks[-1]:
                break
        return b"".join(chunks)

    def handle_s3(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        key, body, method = unquote(url.path), self.body(), self.command
        operation = {"GET": "GetObject", "HEAD": "HeadObject", "PUT": "PutObject", "DELETE": "DeleteObject"}.get(method)
        if "list-type" in query:
            operation = "ListObjectsV2"
        elif "uploads" in query:
            operation = "CreateMultipartUpload"
        elif "uploadId" in query:
            operation = {"PUT": "UploadPart", "POST": "CompleteMultipartUpload"}.get(method, "AbortMultipartUpload")
        request = Request(str(operation), self.headers)
        self.store.asked.append(request)
        refused = self.store.refuse(request)
        if not refused and operation in ("GetObject", "HeadObject") and key not in self.store.objects:
            refused = (404, "NoSuchKey")
        if refused:
            self.answer(refused[0], f"<Error><Code>{refused[1]}</Code><Message>m</Message></Error>".encode())
        else:
            getattr(self, str(operation))(key, body, query)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_s3

    def keep(self, key: str, body: bytes, metadata: Mapping[str, str]) -> dict[str, str]:
        self.store.objects[key] = (body, dict(metadata) if self.store.keeps_metadata else {})
        return {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}

    def own_metadata(self) -> dict[str, str]:
        names = [name for name in self.headers if name.lower().startswith("x-amz-meta-")]
        return {name.title() if self.store.title_case else name: self.headers[name] for name in names}

    def PutObject(self, key: str, body: bytes, query: Mapping[str, str]) -> None:
        self.answer(200, headers=self.keep(key, body, self.own_metadata()))

    def GetObject(self, key: str, body: bytes, query: Mapping[str, str]) -> None:
        content, metadata = self.store.objects[key]
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        tag = {"ETag": f'"{hashlib.md5(content).hexdigest()}"', "Content-Length": str(len(content) - begin)}
        self.answer(206 if "Range" in self.headers else 200, content[begin:], metadata | tag)

    HeadObject = GetObject

    def DeleteObject(self, key: str, body: bytes, query: Mapping[str, str]) -> None:
        self.store.objects.pop(key, None)
        self.answer(204)

    def ListObjectsV2(self, key: str, body: bytes, query: Mapping[str, str]) -> None:
        bucket = key.strip("/")
        names = {name.removeprefix(f"/{bucket}/"): len(content) for name, (content, _) in self.store.objects.items()}
        found = [(name, size) for name, size in names.items() if name.startswith(query.get("prefix", ""))]
        items = "".join(f"<Contents><Key>{name}</Key><Size>{size}</Size></Contents>" for name, size in found)
        self.answer(200, f'<ListBucketResult xmlns="{REASONS}">{items}</ListBucketResult>'.encode())

    def CreateMultipartUpload(self, key: str, body: bytes, query: Mapping[str, str]) -> None:
        self.store.parts[key], self.store.metadata[key] = {}, self.own_metadata()
        self.answer(200, f'<R xmlns="{REASONS}"><UploadId>u</UploadId></R>'.encode())

    def UploadPart(self, key: str, body: bytes, query: Mapping[str, str]) -> None:
        self.store.parts[key][int(query["partNumber"])] = body
        self.answer(200, headers={"ETag": '"part"'})

    def CompleteMultipartUpload(self, key: str, body: bytes, query: Mapping[str, str]) -> None:
        whole = b"".join(part for _, part in sorted(self.store.parts[key].items()))
        self.answer(200, f'<R xmlns="{REASONS}"/>'.encode(), self.keep(key, whole, self.store.metadata[key]))

    def AbortMultipartUpload(self, key: str, body: bytes, query: Mapping[str, str]) -> None:
        self.answer(204)

    def log_message(self, *arguments: Any) -> None:
        pass
