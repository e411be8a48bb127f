"""The S3 client of the environment, and what a store's refusal or silence means, in one paragraph.

The endpoint and the credentials come from the environment only: AWS_ENDPOINT_URL_S3 (or MLFLOW_S3_ENDPOINT_URL),
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION, or whatever else boto3 finds (a role, a profile).
What is asked of the store is the business of components/services/storage.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from components.errors import CallforgeError, InputError, WorkError, without_login

AWS = "AWS S3"
_DOING = {
    "GetObject": "reading",
    "HeadObject": "reading",
    "ListObjectsV2": "listing",
    "PutObject": "writing",
    "DeleteObject": "deleting",
    "CreateMultipartUpload": "writing in parts",
    "UploadPart": "writing in parts",
    "CompleteMultipartUpload": "writing in parts",
    "AbortMultipartUpload": "writing in parts",
}
_RIGHTS = {"reading": "s3:GetObject", "listing": "s3:ListBucket", "deleting": "s3:DeleteObject"}
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired")
_LOG_IN = "get new ones and start the run again: it goes on where it stopped"
_REGION = "set AWS_DEFAULT_REGION to the region of the bucket"
_BODY = "the store did not get the body that was sent: look for a proxy on the way that rewrites bodies or headers"
_FULL = "make room, or raise the quota"
_REMEDIES = {
    "InvalidAccessKeyId": "the store does not know this AWS_ACCESS_KEY_ID; correct it",
    "SignatureDoesNotMatch": "AWS_SECRET_ACCESS_KEY does not fit AWS_ACCESS_KEY_ID; correct it",
    "InvalidToken": "AWS_SESSION_TOKEN does not fit the other two; set all three of one login, or unset it",
    "RequestTimeTooSkewed": "the clocks of this machine and of the store differ; set the clock",
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "PermanentRedirect": _REGION,
    "IncompleteBody": _BODY,
    "MissingContentLength": _BODY,
    "XAmzContentSHA256Mismatch": _BODY,
    "BadDigest": _BODY,
    "InvalidDigest": _BODY,
    "QuotaExceeded": _FULL,
    "InsufficientStorage": _FULL,
    "XMinioStorageFull": _FULL,
}


class StoreAwayError(WorkError):
    """The store does not answer, or is not well: the same may work when it is tried again."""


def endpoint() -> str:
    """The S3 endpoint in use; a user and password in its address are not used and not shown."""
    named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("MLFLOW_S3_ENDPOINT_URL")
    return without_login(named or os.environ.get("AWS_ENDPOINT_URL") or AWS)


def s3_client() -> Any:
    """A boto3 client for the endpoint and credentials of the environment (signature version 4, path style).

    Raises:
        InputError: the endpoint is not an http(s) address, or there is no such profile.
    """
    import boto3
    from botocore.config import Config

    address = endpoint()
    if address != AWS:
        _check_address(address)
    config = Config(
        signature_version="s3v4",
        s3={
            "addressing_style": "auto" if address == AWS else "path",
            # The sha256 of each body, in a header that every store checks; boto3's own checksums travel over https
            # behind the body (aws-chunked), which many stores and proxies refuse or store as it comes.
            "payload_signing_enabled": True,
        },
        retries={"mode": "standard", "max_attempts": 4},
        connect_timeout=5,
        read_timeout=60,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    region = os.environ.get("AWS_DEFAULT_REGION") or os.environ.get("AWS_REGION") or "us-east-1"
    with faults(address):
        return boto3.Session().client(  # a session of its own: the shared one keeps the first credentials it met
            "s3", endpoint_url=None if address == AWS else address, region_name=region, config=config
        )


def _check_address(address: str) -> None:
    try:
        parts = urlsplit(address)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # its text quotes what may be a password
        fine = False
    if not fine:
        raise InputError(f"AWS_ENDPOINT_URL_S3: {address!r} is not an http(s) address; set http(s)://host:port")


@contextmanager
def faults(uri: str, later: bool = False) -> Iterator[None]:
    """Turn what boto3 raises into one paragraph.

    Args:
        later: the same request worked before, so that a refusal or silence is not the input's fault.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except CallforgeError:
        raise
    except (Boto3Error, BotoCoreError, ClientError, ResponseParserError, HTTPError, ConnectionError, TimeoutError) as e:
        wrapped = e.__cause__ or e.__context__ if isinstance(e, Boto3Error) else None  # by the transfer manager
        error = wrapped or e
        raise (_refusal(uri, error, later) if isinstance(error, ClientError) else _silence(uri, error, later)) from e


def _refusal(uri: str, error: Any, later: bool) -> CallforgeError:
    """The error for an answer of the store that says no."""
    answer = error.response.get("Error", {})
    code, status = str(answer.get("Code", "")), status_of(error)
    doing = _DOING.get(error.operation_name, error.operation_name)
    where = f"{uri} at {endpoint()}"
    refused = WorkError if later else InputError
    if code in _EXPIRED:
        return WorkError(f"{where}: the credentials have expired ({code}); {_LOG_IN}")
    if code == "NoSuchBucket":
        return refused(f"{where}: there is no such bucket; create it, or name another one")
    if code == "PreconditionFailed":
        return InputError(f"{where}: the object was replaced while it was read; start again when nobody writes there")
    if code in _REMEDIES:
        return refused(f"{where}: {doing} is refused ({code}); {_REMEDIES[code]}")
    if status == 404:
        return refused(f"{where}: there is no such object; check the bucket and the path")
    if status in (401, 403):
        return refused(
            f"{where}: {doing} is refused ({code or status}); allow it to the user of these credentials "
            f"({_RIGHTS.get(doing, 's3:PutObject')}), or check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if status in (405, 501):
        return refused(f"{where}: the store cannot do what {doing} needs ({error.operation_name}, {code or status})")
    said = f"{code or status}: {answer.get('Message') or 'without a reason'}"[:300]
    if status < 500 and code.isdigit() and error.operation_name != "HeadObject":  # S3 names its reason
        return refused(f"{where}: what answers there does not speak S3 (HTTP {code}); check AWS_ENDPOINT_URL_S3")
    if status >= 500:
        return StoreAwayError(f"{where}: the store failed while {doing} ({said}); start the run again when it is well")
    return refused(f"{where}: {doing} is refused ({said})")


def status_of(error: Any) -> int:
    """The HTTP status of a botocore ClientError."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _silence(uri: str, error: BaseException, later: bool) -> CallforgeError:
    """The error for no answer at all, none that can be read, or none that could be asked for."""
    from botocore import exceptions
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    where, reason = f"{uri} at {endpoint()}", without_login(" ".join(str(error).split()))[:300]
    refused = WorkError if later else InputError
    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return refused(f"{where}: there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    logins = (exceptions.CredentialRetrievalError, exceptions.SSOError, exceptions.TokenRetrievalError)
    if isinstance(error, logins):
        return WorkError(f"{where}: there are no credentials any more ({reason}); {_LOG_IN}")
    if isinstance(error, exceptions.ProfileNotFound):
        return InputError(f"AWS_PROFILE: {reason}; name one of ~/.aws/config, or unset it")
    if isinstance(error, ResponseParserError):
        return refused(f"{where}: what answers there does not speak S3; check AWS_ENDPOINT_URL_S3")
    silent = (exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.IncompleteReadError, HTTPError)
    if not isinstance(error, (*silent, ConnectionError, TimeoutError)):
        return refused(f"{where}: {reason}")
    remedy = "check AWS_ENDPOINT_URL_S3 and that the store runs"
    if isinstance(error, exceptions.SSLError):
        remedy = "check AWS_CA_BUNDLE, and that the store speaks https"
    kind = StoreAwayError if later else InputError
    return kind(f"{uri}: the S3 store at {endpoint()} does not answer ({reason}); {remedy}")
