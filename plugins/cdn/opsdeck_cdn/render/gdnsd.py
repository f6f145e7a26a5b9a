"""The configuration of the name servers: one zone, whose names lead to the nearest edge that is well.

Facts: gdnsd's manual pages gdnsd.config(5), gdnsd-plugin-geoip(8), gdnsd-plugin-extfile(8).
"""

from __future__ import annotations

from collections.abc import Sequence

from opsdeck_cdn.sites import Edge, Setup, Site

FOLDER = "/etc/gdnsd"
CONFIG = f"{FOLDER}/config"
ZONES = f"{FOLDER}/zones"
STATES_FOLDER = "/var/lib/gdnsd/extfile"
STATES = f"{STATES_FOLDER}/opsdeck-cdn"
GEOIP = "geoip-city"
GEOIP_FILE = f"/opt/opsdeck/artefacts/{GEOIP}/current/{GEOIP}.mmdb"
RESOURCE = "edges"


def config(edges: Sequence[Edge], *, address: str, geoip: str) -> bytes:
    """Give gdnsd's configuration for one name server; `edges` are those that may ever be named.

    `geoip` is the sha256 of the data, "" for none: it stands in the text, so that other data is checked and taken.
    """
    lines = [
        "# Made by OpsDeck (plugin cdn).",
        f"# GeoIP data: {geoip or 'none'}",
        f'options => {{ listen => ["{address}"] }}',
    ]
    if edges:
        lines += [
            "service_types => { opsdeck => {",
            f'  plugin => extfile, file => "{STATES}", direct => true, interval => 2, def_down => true, def_ttl => 30',
            "} }",
            "plugins => {",
            *(_geoip(edges) if geoip else _multifo(edges)),
            "}",
        ]
    return ("\n".join(lines) + "\n").encode()


def _geoip(edges: Sequence[Edge]) -> list[str]:
    names = ", ".join(edge.host for edge in edges)
    coordinates = ", ".join(f"{edge.host} => [{edge.latitude:.4f}, {edge.longitude:.4f}]" for edge in edges)
    addresses = ", ".join(f"{edge.host} => {_addresses(edge, edges)}" for edge in edges)
    return [
        "  geoip => {",
        "    maps => { world => {",
        f'      geoip2_db => "{GEOIP_FILE}",',
        f"      datacenters => [{names}],",
        f"      auto_dc_coords => {{ {coordinates} }},",
        "      auto_dc_limit => 0,",
        "    } }",
        "    resources => {",
        f"      {RESOURCE} => {{ map => world, service_types => opsdeck, dcmap => {{ {addresses} }} }},",
        "    }",
        "  }",
    ]


def _multifo(edges: Sequence[Edge]) -> list[str]:
    """Without GeoIP data every edge that is well is named to everyone."""
    v6 = _all_v6(edges)
    families = [("addrs_v4", [(edge.host, edge.v4) for edge in edges])]
    if v6:
        families.append(("addrs_v6", [(edge.host, edge.v6) for edge in edges]))
    lines = ["  multifo => {", f"    {RESOURCE} => {{", "      service_types => opsdeck,"]
    for family, pairs in families:
        lines.append(f"      {family} => {{ " + ", ".join(f"{name} => {text}" for name, text in pairs) + " },")
    return [*lines, "    }", "  }"]


def _all_v6(edges: Sequence[Edge]) -> bool:
    """Tell whether all edges have IPv6: with some only, others' visitors would be sent far away."""
    return all(edge.v6 for edge in edges)


def _addresses(edge: Edge, edges: Sequence[Edge]) -> str:
    if _all_v6(edges):
        return f"{{ addrs_v4 => [{edge.v4}], addrs_v6 => [{edge.v6}] }}"
    return edge.v4


def zone(
    sites: Sequence[Site], setup: Setup, servers: Sequence[tuple[str, str]], *, edges: Sequence[Edge], geoip: bool
) -> bytes:
    """Give the zone file; `servers` are the name servers as label and address."""
    name = f"{setup.zone}."
    plugin = "geoip" if geoip else "multifo"
    lines = [
        "; Made by OpsDeck (plugin cdn).",
        f"@ 3600 SOA {servers[0][0]}.{name} hostmaster.{name} 1 7200 1800 259200 60",
        *(f"@ 3600 NS {label}.{name}" for label, _ in servers),
        *(f"{label} 3600 A {address}" for label, address in servers),
    ]
    if edges:
        labels: list[str] = []
        for site in sites:
            own = [served for served in site.names if served == setup.zone or served.endswith(f".{setup.zone}")]
            labels += [
                site.name,
                *("@" if served == setup.zone else served.removesuffix(f".{setup.zone}") for served in own),
            ]
        # A site may have the short name of another in one of its names: all lead to the same edges.
        lines += [f"{label} {setup.ttl} DYNA {plugin}!{RESOURCE}" for label in dict.fromkeys(labels)]
    return ("\n".join(lines) + "\n").encode()


def states(edges: Sequence[Edge], up: frozenset[str], ttl: int) -> bytes:
    """Give the state of each edge's addresses; `up` are the hosts that may be named now."""
    lines = [
        f"{address} => {'UP' if edge.host in up else 'DOWN'}/{ttl}\n" for edge in edges for address in edge.addresses
    ]
    return "".join(lines).encode()
