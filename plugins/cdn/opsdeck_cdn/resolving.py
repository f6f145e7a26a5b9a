"""Asking one name server, as a resolver does, with the network of the visitor it asks for (RFC 7871)."""

from __future__ import annotations

import dns.asyncquery
import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.rdatatype

from opsdeck.api import OpsDeckError


class NoName(OpsDeckError):
    """A name server did not answer, or refused to."""


async def ask(
    server: str, name: str, kind: str = "A", *, client: str = "", port: int = 53, timeout: float = 3.0
) -> tuple[str, ...]:
    """Give what `server` answers for `name`, sorted; `client` is the visitor's network, such as 192.0.2.0/24.

    Raises `NoName` when it is silent or its answer is no success.
    """
    options: list[dns.edns.Option] = []
    if client:
        address, _, length = client.partition("/")
        options.append(dns.edns.ECSOption(address, int(length or 24)))
    query = dns.message.make_query(name, kind, use_edns=0, options=options or None)
    answer = await exchange(server, query, port=port, timeout=timeout)
    wanted = dns.rdatatype.from_text(kind)
    return tuple(sorted(item.to_text() for group in answer.answer if group.rdtype == wanted for item in group))


async def exchange(
    server: str, query: dns.message.Message, *, port: int = 53, timeout: float = 3.0
) -> dns.message.Message:
    """Ask one server for what it knows itself; twice, since a packet may get lost. Raises `NoName`."""
    query.flags &= ~dns.flags.RD
    name = query.question[0].name.to_text(omit_final_dot=True)
    fault = ""
    for _ in range(2):
        try:
            answer = await dns.asyncquery.udp(query, server, timeout=timeout, port=port)
        except (OSError, dns.exception.DNSException) as problem:
            fault = str(problem) or type(problem).__name__
            continue
        if answer.rcode() != 0:
            raise NoName(f"{server} answers {dns.rcode.to_text(answer.rcode())} for {name}.")
        return answer
    raise NoName(f"{server} does not answer for {name}: {fault}.", hint="see that port 53 is let in, UDP and TCP")
