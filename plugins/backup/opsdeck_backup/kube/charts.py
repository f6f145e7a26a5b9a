"""What each common chart makes of a database, and the sidecar, image and Job that fit it: data, no cluster is asked.

Names of volumes, paths and users are those of the charts' and operators' own templates and documentation: Bitnami's
charts since their `empty-dir` volume, mariadb-operator (`k8s.mariadb.com/v1alpha1`), Percona's operator for MySQL.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from opsdeck.api import NotFound

CONTAINER = "opsdeck-backup"
_TMP = "/tmp"  # noqa: S108 - a volume of the container's own
RUN = "/run/opsdeck-backup"
CLAIM = "/claim"
"""Where the Job has the whole claim, so that the old data can be kept beside the data and not within."""
Node = dict[str, Any]
"""A piece of a manifest, as YAML has it."""


@dataclass(frozen=True)
class Chart:
    """How a chart keeps a database. Paths are those inside the server's container.

    `claim` is a pattern of the workload's name; `pause` and `resume` are merge patches of `resource` that keep an
    operator from undoing what a restore does.
    """

    name: str
    engine: str
    mount: str
    data: str
    socket: str
    uid: int
    gid: int
    claim: str
    volume: str
    sub_path: str = ""
    socket_volume: str = ""
    socket_sub_path: str = ""
    resource: str = ""
    suffix: str = ""
    pause: str = ""
    resume: str = ""

    @property
    def claimed(self) -> str:
        """Give the data folder where the Job sees it: on the whole claim."""
        inner = f"{self.sub_path}{self.data.removeprefix(self.mount)}".strip("/")
        return f"{CLAIM}/{inner}" if inner else CLAIM

    def claim_of(self, workload: str) -> str:
        """Give the name of the claim of the workload's first pod."""
        return self.claim.format(workload=workload)

    def resource_of(self, workload: str) -> str:
        """Give the operator's resource that owns the workload, as kind/name; "" when no operator does."""
        return f"{self.resource}/{workload.removesuffix(self.suffix)}" if self.resource else ""


def _bitnami(engine: str) -> Chart:
    return Chart(
        f"bitnami-{engine}", engine, f"/bitnami/{engine}", f"/bitnami/{engine}/data",
        f"/opt/bitnami/{engine}{_TMP}/mysql.sock", 1001, 1001, "data-{workload}-0", "data",
        socket_volume="empty-dir", socket_sub_path="app-tmp-dir",
    )  # fmt: skip


CHARTS: dict[str, Chart] = {
    chart.name: chart
    for chart in (
        _bitnami("mysql"),
        _bitnami("mariadb"),
        Chart(
            "mariadb-operator", "mariadb", "/var/lib/mysql", "/var/lib/mysql", "/run/mysqld/mysqld.sock", 999, 999,
            "storage-{workload}-0", "storage", sub_path="storage", socket_volume="socket",
            resource="mariadb.k8s.mariadb.com", pause='{"spec":{"suspend":true}}', resume='{"spec":{"suspend":false}}',
        ),
        Chart(
            "percona-operator", "mysql", "/var/lib/mysql", "/var/lib/mysql", "/var/lib/mysql/mysql.sock", 1001, 1001,
            "datadir-{workload}-0", "datadir", resource="perconaservermysql.ps.percona.com", suffix="-mysql",
            pause='{"spec":{"pause":true}}', resume='{"spec":{"pause":false}}',
        ),
        Chart(
            "plain-mariadb", "mariadb", "/var/lib/mysql", "/var/lib/mysql/data", "/run/mysqld/mysqld.sock", 999, 999,
            "data-{workload}-0", "data", socket_volume="socket",
        ),
    )
}  # fmt: skip


def chart(name: str) -> Chart:
    """Give the chart of that name. Raises `NotFound`."""
    found = CHARTS.get(name)
    if found is None:
        raise NotFound(f"there is no chart {name!r}.", field="chart", hint=f"one of {', '.join(CHARTS)}")
    return found


def _data_mount(kept: Chart) -> Node:
    mount: Node = {"name": kept.volume, "mountPath": kept.mount}
    return mount | ({"subPath": kept.sub_path} if kept.sub_path else {})


def sidecar(kept: Chart, image: str) -> Node:
    """Give the container that stands beside the server: it idles until it is asked, and can only read the data."""
    mounts = [_data_mount(kept) | {"readOnly": True}]
    if kept.socket_volume:
        socket: Node = {"name": kept.socket_volume, "mountPath": kept.socket.rpartition("/")[0]}
        if kept.socket_sub_path:
            socket["subPath"] = kept.socket_sub_path
        mounts.append(socket)
    made: Node = {
        "name": CONTAINER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}},
        "volumeMounts": [
            *mounts,
            {"name": "opsdeck-run", "mountPath": RUN},
            {"name": "opsdeck-tmp", "mountPath": _TMP},
        ],
    }
    if kept.name != "mariadb-operator":  # whose sidecars have no field for it; its pod's own holds
        made["securityContext"] = {
            "runAsUser": kept.uid,
            "runAsNonRoot": True,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }
    return made


def volumes() -> list[Node]:
    """Give the volumes of the sidecar's own: secrets and a run's small files lie in memory."""
    return [
        {"name": "opsdeck-run", "emptyDir": {"medium": "Memory", "sizeLimit": "128Mi"}},
        {"name": "opsdeck-tmp", "emptyDir": {"sizeLimit": "256Mi"}},
    ]


def values(kept: Chart, image: str, workload: str) -> list[Node]:
    """Give what is handed to the chart: Helm's values, a part of the operator's resource, or whole manifests."""
    beside, own = sidecar(kept, image), volumes()
    if kept.name.startswith("bitnami-"):
        return [{"primary": {"sidecars": [beside], "extraVolumes": own}}]
    if kept.name == "mariadb-operator":
        shared = [{"name": "socket", "emptyDir": {}}]
        mounts = [{"name": "socket", "mountPath": "/run/mysqld"}]
        return [{"spec": {"sidecarContainers": [beside], "volumes": [*shared, *own], "volumeMounts": mounts}}]
    if kept.name == "percona-operator":
        return [{"spec": {"mysql": {"sidecars": [beside], "sidecarVolumes": own}}}]
    return _plain(kept, beside, own, workload)


def _plain(kept: Chart, beside: Node, own: list[Node], workload: str) -> list[Node]:
    labels = {"app.kubernetes.io/name": workload}
    server = {
        "name": "mariadb",
        "image": "mariadb:11.8",
        "args": [f"--datadir={kept.data}"],
        "env": [
            {
                "name": "MARIADB_ROOT_PASSWORD",
                "valueFrom": {"secretKeyRef": {"name": workload, "key": "root-password"}},
            }
        ],
        "ports": [{"name": "mysql", "containerPort": 3306}],
        "volumeMounts": [_data_mount(kept), {"name": "socket", "mountPath": "/run/mysqld"}],
    }
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": workload, "labels": labels},
            "spec": {"clusterIP": "None", "selector": labels, "ports": [{"name": "mysql", "port": 3306}]},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": workload, "labels": labels},
            "spec": {
                "serviceName": workload,
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "securityContext": {"runAsUser": kept.uid, "runAsGroup": kept.gid, "fsGroup": kept.gid},
                        "containers": [server, beside],
                        "volumes": [{"name": "socket", "emptyDir": {}}, *own],
                    },
                },
                "volumeClaimTemplates": [
                    {
                        "metadata": {"name": "data"},
                        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}},
                    }
                ],
            },
        },
    ]


def job(kept: Chart, *, name: str, namespace: str, claim: str, image: str) -> Node:
    """Give the Job that holds a claim while nothing else does: it idles, and is asked like the sidecar.

    It runs as root with no more than it takes to write for the server's user.
    """
    labels = {"app.kubernetes.io/managed-by": "opsdeck", "opsdeck/restore": name}
    container = {
        "name": CONTAINER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "securityContext": {
            "runAsUser": 0,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"], "add": ["CHOWN", "DAC_OVERRIDE", "FOWNER"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": kept.volume, "mountPath": CLAIM},
            {"name": "opsdeck-run", "mountPath": RUN},
            {"name": "opsdeck-tmp", "mountPath": _TMP},
        ],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": 24 * 3600,
            "ttlSecondsAfterFinished": 3600,
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    "terminationGracePeriodSeconds": 5,
                    "containers": [container],
                    "volumes": [{"name": kept.volume, "persistentVolumeClaim": {"claimName": claim}}, *volumes()],
                },
            },
        },
    }


@cache
def containerfile(engine: str) -> str:
    """Give the Containerfile of the sidecar's image for an engine."""
    return (files("opsdeck_backup") / "kube" / f"Containerfile.{engine}").read_text()
