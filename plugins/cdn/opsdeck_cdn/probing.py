"""Looking from outside, as a visitor would: one request to one edge, whatever DNS says."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from opsdeck.api import OpsDeckError
from opsdeck_cdn.sites import Life

BODY_LIMIT = 1 << 20
HEAD_LIMIT = 64 * 1024


class NoAnswer(OpsDeckError):
    """An edge did not answer as HTTP; `tls` tells whether it was the certificate."""

    def __init__(self, message: str, *, tls: bool = False, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.tls = tls


@dataclass(frozen=True)
class Answer:
    """What an edge answered. Header names are in small letters; `body` is cut at 1 MB."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def header(self, name: str) -> str:
        """Give a header's value, "" when it is not there."""
        return self.headers.get(name.lower(), "")


def context(roots: str) -> ssl.SSLContext:
    """Trust the public CAs, or only those given as PEM."""
    return ssl.create_default_context(cadata=roots or None)


async def ask(
    address: str,
    host: str,
    path: str = "/",
    *,
    tls: ssl.SSLContext | None = None,
    port: int | None = None,
    headers: Mapping[str, str] | None = None,
    method: str = "GET",
    timeout: float = 10.0,
) -> Answer:
    """Send one request to `address` for the name `host`. Raises `NoAnswer`."""
    port = port or (443 if tls else 80)
    where = f"{host} at {address}"
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(
                address, port, ssl=tls, server_hostname=host if tls else None, limit=HEAD_LIMIT
            )
            try:
                extra = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
                head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: OpsDeck-probe\r\n"
                writer.write(f"{head}{extra}Connection: close\r\n\r\n".encode())
                await writer.drain()
                return await _read(reader, method)
            finally:
                writer.close()
                with contextlib.suppress(OSError, TimeoutError):
                    async with asyncio.timeout(1):
                        await writer.wait_closed()
    except TimeoutError:
        raise NoAnswer(f"{where} did not answer within {timeout:g} s.") from None
    except ssl.SSLCertVerificationError as fault:
        raise NoAnswer(f"the certificate of {where} is not good: {fault.verify_message}.", tls=True) from fault
    except ssl.SSLError as fault:
        raise NoAnswer(f"{where} has no certificate to show ({fault.reason}).", tls=True) from fault
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as fault:
        raise NoAnswer(f"{where} does not answer: {fault or type(fault).__name__}.") from fault


async def certificate(address: str, name: str, trust: ssl.SSLContext, *, timeout: float = 8.0) -> Life:
    """Shake hands as a visitor of `name` would and give the life of the certificate. Raises `NoAnswer`."""
    where = f"{name} at {address}"
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(address, 443, ssl=trust, server_hostname=name)
        life = _life(writer)
        writer.close()
    except TimeoutError:
        raise NoAnswer(f"{where} did not answer within {timeout:g} s.") from None
    except ssl.SSLCertVerificationError as fault:
        raise NoAnswer(f"the certificate of {where} is not good: {fault.verify_message}.", tls=True) from fault
    except ssl.SSLError as fault:
        raise NoAnswer(f"{where} has no certificate to show ({fault.reason}).", tls=True) from fault
    except OSError as fault:
        raise NoAnswer(f"{where} does not answer: {fault}.") from fault
    if life is None:
        raise NoAnswer(f"{where} shows no certificate.", tls=True)
    return life


def _life(writer: asyncio.StreamWriter) -> Life | None:
    session = writer.get_extra_info("ssl_object")
    shown = (session.getpeercert() or {}) if session is not None else {}
    if "notBefore" not in shown or "notAfter" not in shown:
        return None
    begin, end = (ssl.cert_time_to_seconds(str(shown[part])) for part in ("notBefore", "notAfter"))
    return Life(datetime.fromtimestamp(begin, UTC), datetime.fromtimestamp(end, UTC))


async def _read(reader: asyncio.StreamReader, method: str) -> Answer:
    text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = text.split("\r\n")
    status = int(first.split(" ", 2)[1])
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
    }
    body = b""
    if method != "HEAD" and status not in (204, 304):
        while len(body) < BODY_LIMIT and (block := await reader.read(65536)):
            body += block
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = _unchunk(body)
    return Answer(status, headers, body[:BODY_LIMIT])


def _unchunk(data: bytes) -> bytes:
    """Put chunks together; what was cut off is left out."""
    parts = []
    while data:
        size, found, rest = data.partition(b"\r\n")
        if not found:
            break
        length = int(size.split(b";")[0], 16)
        if length == 0:
            break
        parts.append(rest[:length])
        data = rest[length + 2 :]
    return b"".join(parts)
