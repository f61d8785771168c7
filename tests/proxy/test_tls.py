"""Backends behind TLS: their certificates are verified, by the authorities that were given."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner

from proxy.cli import app
from tests.proxy.conftest import proxy_with


@dataclass
class Secure:
    """A server that speaks TLS under a certificate of its own for 127.0.0.1."""

    port: int
    certificate: Path


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


@pytest.fixture
async def secure(tmp_path: Path) -> AsyncIterator[Secure]:
    chain, key = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, key)

    async def serve(request: web.Request) -> web.Response:
        return web.json_response({"path": request.path, "bytes": len(await request.read())})

    server = web.Application(client_max_size=1 << 30)
    server.router.add_route("*", "/{path:.*}", serve)
    runner = web.AppRunner(server, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield Secure(port, chain)
    finally:
        await runner.cleanup()


def settings(url: str) -> dict[str, Any]:
    return {
        "backends": {"digits": {"type": "http", "url": url}},
        "upstreams": {"users": {"url": url}},
    }


@pytest.mark.parametrize("size", [10, 3_000_000])
async def test_a_verified_backend_and_upstream_are_asked(secure: Secure, size: int) -> None:
    given = settings(f"https://127.0.0.1:{secure.port}") | {"ca_file": secure.certificate}
    async with proxy_with(**given) as proxy:
        for path in ("/v2/models/digits/infer", "/api/users/x"):
            for _ in range(2):  # the second time on the kept connection
                async with proxy.session.post(
                    proxy.url + path, data=BytesIO(b"x" * size)
                ) as answer:
                    assert answer.status == 200
                    assert (await answer.json())["bytes"] == size


@pytest.mark.parametrize("known", [False, True])
async def test_who_cannot_be_verified_is_not_asked(secure: Secure, known: bool) -> None:
    """Either the authority is unknown, or the certificate is for another name."""
    host = "localhost" if known else "127.0.0.1"
    given = settings(f"https://{host}:{secure.port}")
    if known:
        given |= {"ca_file": secure.certificate}
    async with (
        proxy_with(**given) as proxy,
        proxy.session.post(f"{proxy.url}/v2/models/digits/infer", data=b"{}") as answer,
    ):
        problem = await answer.json()
    assert (answer.status, problem["type"]) == (503, "urn:slipway:problem:upstream-unreachable")
    assert "certificate verify failed" in problem["detail"]


def test_a_missing_file_of_authorities_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXY_CA_FILE", "nowhere.pem")
    done = CliRunner().invoke(app, ["serve"])
    assert done.exit_code == 2
    assert "PROXY_CA_FILE" in done.stderr
