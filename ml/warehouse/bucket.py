"""The few requests of the S3 API that a warehouse needs, with its errors in words."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ml.errors import BadInputError, HemlineError

if TYPE_CHECKING:
    from ml.settings import ObjectStoreSettings

PART_BYTES = 16 * 2**20
"""Bytes of a multipart upload's part, held in memory; S3 takes 5 MiB to 5 GiB, and 10,000 parts of one object."""
_REFUSED = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
_GONE = {"NoSuchKey", "NotFound", "404"}
_FORBIDDEN = {"AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}


class StoreError(HemlineError):
    """A request that the store did not answer, or not well; the message says what to do."""


@dataclass(frozen=True)
class Listed:
    """An object as a listing shows it."""

    key: str
    bytes: int
    etag: str


@dataclass(frozen=True)
class Upload:
    """A multipart upload: its parts are there, and nobody sees the object until it is completed."""

    key: str
    id: str
    bytes: int
    parts: tuple[dict[str, Any], ...] = ()


class Bucket:
    """Objects below `s3://bucket/prefix`; keys are relative to the prefix. Credentials come from the environment."""

    def __init__(self, url: str, settings: ObjectStoreSettings) -> None:
        self.url = url.rstrip("/")
        self._settings = settings
        self._name, _, prefix = self.url.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._lock = threading.Lock()

    @cached_property
    def _client(self) -> Any:
        from boto3.session import Session
        from botocore.config import Config

        own = self._settings.endpoint is not None
        config = Config(
            connect_timeout=10,
            read_timeout=60,
            max_pool_connections=32,
            retries={"mode": "standard", "total_max_attempts": 4},
            s3={"addressing_style": "path" if own else "auto"},
            # Other makers' stores do not all know the checksums that Amazon's takes by default.
            request_checksum_calculation="when_required" if own else "when_supported",
            response_checksum_validation="when_required" if own else "when_supported",
        )
        with self._lock:  # making a client is not thread-safe, using one is
            return Session().client(
                "s3", endpoint_url=self._settings.endpoint, region_name=self._settings.region, config=config
            )

    def get(self, key: str) -> tuple[bytes, str] | None:
        """Return an object's bytes and ETag, None where there is none."""
        try:
            with self._words(f"reading {key}"):
                answer = self._client.get_object(**self._at(key))
                return answer["Body"].read(), answer["ETag"]
        except FileNotFoundError:
            return None

    def put_if(self, key: str, body: bytes, etag: str | None) -> str | None:
        """Put an object where `etag` is the one it has, or None where there is none; return the new ETag.

        Returns None where the store refused: somebody was first, or this very request was, whose answer got lost and
        which the client has sent again. A StoreError leaves open whether it was done.
        """
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        from botocore.exceptions import ClientError

        with self._words(f"writing {key}"):
            try:
                return self._client.put_object(**self._at(key), Body=body, **condition)["ETag"]
            except ClientError as error:
                if _code(error) in _REFUSED | _GONE:
                    return None
                raise

    def list(self, prefix: str) -> Iterator[Listed]:
        """Yield the objects whose keys start with `prefix`, by key."""
        with self._words(f"listing {prefix}"):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._name, Prefix=self._prefix + prefix):
                for entry in page.get("Contents", []):
                    yield Listed(entry["Key"].removeprefix(self._prefix), entry["Size"], entry["ETag"])

    def download(self, key: str, file: BinaryIO) -> None:
        """Write an object's bytes into `file`; raises FileNotFoundError where there is none."""
        with self._words(f"reading {key}"):
            for chunk in self._client.get_object(**self._at(key))["Body"].iter_chunks(2**20):
                file.write(chunk)

    def delete(self, key: str) -> None:
        """Delete an object, if it is there."""
        with self._words(f"deleting {key}"):
            self._client.delete_object(**self._at(key))

    def upload(self, path: Path, key: str, after_part: Callable[[], object]) -> Upload:
        """Upload a file's parts; nobody sees the object until `complete`."""
        parts: list[dict[str, Any]] = []
        with self._words(f"writing {key}"):
            upload = self._client.create_multipart_upload(**self._at(key))["UploadId"]
        try:
            with path.open("rb") as file:
                while (body := file.read(PART_BYTES)) or not parts:
                    number = len(parts) + 1
                    with self._words(f"writing {key}"):
                        answer = self._client.upload_part(
                            **self._at(key), UploadId=upload, PartNumber=number, Body=body
                        )
                    parts.append({"PartNumber": number, "ETag": answer["ETag"]})
                    after_part()
        except Exception:
            self.abort(Upload(key, upload, 0))
            raise
        return Upload(key, upload, path.stat().st_size, tuple(parts))

    def complete(self, upload: Upload) -> None:
        """Make an uploaded object visible, whole; that it was done in a try whose answer got lost is found out."""
        from botocore.exceptions import ClientError

        request = {"UploadId": upload.id, "MultipartUpload": {"Parts": list(upload.parts)}}
        with self._words(f"completing {upload.key}"):
            try:
                self._client.complete_multipart_upload(**self._at(upload.key), **request)
            except ClientError:
                if self.size(upload.key) != upload.bytes:
                    raise

    def abort(self, upload: Upload) -> None:
        """Drop an upload's parts, if it is still there; failing to is left to the next writer."""
        from botocore.exceptions import BotoCoreError, ClientError

        with suppress(BotoCoreError, ClientError):
            self._client.abort_multipart_upload(**self._at(upload.key), UploadId=upload.id)

    def uploads(self, prefix: str) -> list[Upload]:
        """Return the uploads below `prefix` that are neither completed nor aborted."""
        with self._words(f"listing the uploads below {prefix}"):
            pages = self._client.get_paginator("list_multipart_uploads")
            found = [
                Upload(entry["Key"].removeprefix(self._prefix), entry["UploadId"], 0)
                for page in pages.paginate(Bucket=self._name, Prefix=self._prefix + prefix)
                for entry in page.get("Uploads", [])
            ]
        return [upload for upload in found if upload.key.startswith(prefix)]

    def size(self, key: str) -> int | None:
        """Return an object's bytes, None where there is none."""
        try:
            with self._words(f"looking at {key}"):
                return self._client.head_object(**self._at(key))["ContentLength"]
        except FileNotFoundError:
            return None

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._name, "Key": self._prefix + key}

    @contextmanager
    def _words(self, doing: str) -> Iterator[None]:
        """Turn the client's errors into sentences; the cause tells `ml.transient` whether a later try may help."""
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

        try:
            yield
        except ClientError as error:
            code = _code(error)
            if code in _GONE:
                raise FileNotFoundError(f"{self.url}: {doing}: no such object") from error
            if code == "NoSuchBucket":
                raise BadInputError(
                    f"{self.url}: there is no bucket {self._name!r}: create it, or correct the setting `warehouse`"
                ) from error
            if code in _FORBIDDEN:
                raise StoreError(
                    f"{self.url}: {doing}: the store refuses ({code}). The credentials in the environment (AWS_*) must "
                    f"be allowed to list, read, write and delete there; then run again."
                ) from error
            raise StoreError(f"{self.url}: {doing}: the store answers {code}. Run again when it is well.") from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise BadInputError(
                f"{self.url}: no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or what else boto3 reads"
            ) from error
        except BotoCoreError as error:
            at = self._settings.endpoint or "Amazon S3"
            raise StoreError(f"{self.url}: {doing}: no answer from {at} ({error}). Run again when it is up.") from error


def _code(error: Any) -> str:
    """The S3 API's error code, or the HTTP status where the answer has no body."""
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def pause(attempt: int) -> None:
    """Sleep a little longer with each attempt, 0.1 to 5 s, not in step with others."""
    time.sleep(min(5.0, 0.1 * 2**attempt) * random.uniform(0.5, 1.0))
