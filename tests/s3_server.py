"""An object store on loopback: moto's S3 over real HTTP, with answers that get lost and conditions that are ignored."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ml.settings import ObjectStoreSettings

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "loopback-key", "AWS_SECRET_ACCESS_KEY": "loopback-secret-51c7",
    "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
}  # fmt: skip


@dataclass
class S3Server:
    """A running server. `fault` may name what happens to a request: see `_application`."""

    endpoint: str = ""
    fault: Callable[[str, str], str | None] = lambda method, path: None
    requests: list[tuple[str, str]] = field(default_factory=list)

    def settings(self, **values: Any) -> ObjectStoreSettings:
        """Return settings that point here."""
        return ObjectStoreSettings(endpoint=self.endpoint, **values)

    def client(self) -> Any:
        """Return a plain client, for looking and for spoiling."""
        import boto3

        return boto3.client("s3", endpoint_url=self.endpoint)

    def keys(self, url: str, below: str = "") -> dict[str, int]:
        """Return keys below s3://bucket/prefix/below, relative to the prefix, with their sizes."""
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/{below}")
        found = [entry for page in pages for entry in page.get("Contents", [])]
        return {entry["Key"].removeprefix(f"{prefix}/"): entry["Size"] for entry in found}

    def uploads(self, bucket: str = "shop") -> list[str]:
        """Return the keys of uploads that nobody has completed or aborted."""
        return [upload["Key"] for upload in self.client().list_multipart_uploads(Bucket=bucket).get("Uploads", [])]

    def file_system(self) -> Any:
        """Return pyarrow's view of the store, as a plain reader has it."""
        from pyarrow.fs import S3FileSystem

        host = self.endpoint.removeprefix("http://")
        return S3FileSystem(endpoint_override=host, scheme="http", region="us-east-1")

    def _application(self) -> Callable[..., Iterable[bytes]]:
        """moto's application below one lock: it does not look and put in one step, as a store must."""
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        moto, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()

        def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"] + "?" + environ["QUERY_STRING"]
            self.requests.append((method, path))
            what = self.fault(method, path)
            if what == "unconditional":
                environ = {k: v for k, v in environ.items() if k not in ("HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH")}
            if what != "lose request":
                with lock:
                    body = list(moto(environ, start_response))
            if what in ("lose request", "lose answer"):
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
                raise ConnectionError
            return body

        return answer

    def serve(self) -> Callable[[], None]:
        """Start; return what stops it."""
        import logging

        from werkzeug.serving import WSGIRequestHandler, make_server

        class Handler(WSGIRequestHandler):
            protocol_version = "HTTP/1.1"

        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
        server = make_server("127.0.0.1", 0, self._application(), threaded=True, request_handler=Handler)
        self.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()

        def stop() -> None:
            server.shutdown()
            thread.join()

        return stop
