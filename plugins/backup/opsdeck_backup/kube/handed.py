"""What a target in Kubernetes hands to people: the image's recipe, and the part that its chart or operator takes."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from opsdeck.api import Refused
from opsdeck_backup.kube import charts
from opsdeck_backup.models import Item, Target

_HEADS = {
    "mariadb-operator": "# Merge into the MariaDB resource; its pods run as 999 (spec.podSecurityContext).\n",
    "percona-operator": "# Merge into the PerconaServerMySQL resource.\n",
    "plain-mariadb": "# A whole database. The secret {workload} with the key root-password must be there.\n",
}


def _chart(row: Target) -> charts.Chart:
    if row.kind != "kubernetes":
        raise Refused(f"{row.name} is not in Kubernetes.", field="target", hint="its kind is set with the target")
    return charts.chart(row.chart)


def containerfile(row: Target) -> str:
    """Give the Containerfile of the sidecar's image."""
    return charts.containerfile(_chart(row).engine)


def image(row: Target, items: Sequence[Item] = ()) -> str:
    """Give the image's name as the Containerfile says it, with the server's series where a backup has shown it."""
    version = next((item.version for item in items if item.version), "")
    series = ".".join(version.split(".")[:2]) if version else "SERIES"
    return f"registry.example/opsdeck-backup:{row.engine}-{series}"


def values(row: Target, name: str) -> str:
    """Give the YAML for Helm, the operator, or kubectl."""
    kept = _chart(row)
    text = str(yaml.safe_dump_all(charts.values(kept, name, row.workload), sort_keys=False, width=120))
    return _HEADS.get(kept.name, "# Values for Helm.\n").format(workload=row.workload) + text
