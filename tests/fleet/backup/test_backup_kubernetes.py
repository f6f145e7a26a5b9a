"""A database in a cluster: the real pipeline in a container beside a real MariaDB, behind a strict kubectl stand-in."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from opsdeck_backup import catalogue, stores
from opsdeck_backup.kube import charts

from opsdeck.actor import Actor, Door, Role
from opsdeck.lab.fleet import LabHost
from opsdeck.secrets.sensitive import Sensitive

BOSS = Actor("boss@cli", Role.ADMIN, Door.CLI, stepped_up=True)
STANDIN = Path(__file__).resolve().parents[2] / "standins" / "kubectl.py"
IMAGE = "registry.example/opsdeck-backup:mariadb-10.11"
HOME = "/var/lib/standin-kube"
POD = f"{HOME}/pods/db-0"
KUBE = {
    "name": "cluster", "kind": "kubernetes", "host": "bk-spare", "remote": "store:backups", "store_secret": "s3",
    "key_secret": "key", "login_secret": "pod-login", "namespace": "shop", "workload": "db",
}  # fmt: skip
LOGIN = "[client]\nuser=opsdeck\npassword=pod-password\n"
SETUP = (
    "CREATE USER opsdeck@localhost IDENTIFIED BY 'pod-password'; GRANT ALL ON *.* TO opsdeck@localhost; "
    "CREATE DATABASE shop; USE shop; CREATE TABLE orders (id INT PRIMARY KEY AUTO_INCREMENT, note VARCHAR(200)); "
    "INSERT INTO orders (note) SELECT CONCAT('order ', seq) FROM seq_1_to_1000"
)


def kubectl(host: LabHost, *words: str, given: str = "", check: bool = True) -> str:
    return host.execute(["kubectl", "--namespace=shop", *words], stdin=given, check=check, timeout=120)


def workload(chart: charts.Chart) -> dict[str, Any]:
    """Give the chart's StatefulSet with our part in it, as the chart or the operator would make it."""
    if chart.name == "plain-mariadb":
        (_, made) = charts.values(chart, IMAGE, "db")
        return made
    (value,) = charts.values(chart, IMAGE, "db")
    spec = value["spec"]
    data = {"name": "storage", "mountPath": "/var/lib/mysql", "subPath": "storage"}
    server = {"name": "mariadb", "image": "mariadb:10.11", "volumeMounts": [data, *spec["volumeMounts"]]}
    labels = {"app": "db"}
    return {
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
        "spec": {
            "replicas": 1, "serviceName": "db", "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {
                "securityContext": {"runAsUser": 999, "fsGroup": 999},
                "containers": [server, *spec["sidecarContainers"]], "volumes": spec["volumes"]}},
            "volumeClaimTemplates": [{"metadata": {"name": "storage"}, "spec": {"accessModes": ["ReadWriteOnce"]}}],
        },
    }  # fmt: skip


class Cluster:
    """The stand-in on a host, with one database in it."""

    def __init__(self, host: LabHost, chart: charts.Chart) -> None:
        self.host, self.chart = host, chart
        self.socket = f"{POD}/socket/mysqld.sock"
        self.data = f"{HOME}/claims/{chart.claim_of('db')}/" + ("data" if chart.name == "plain-mariadb" else "storage")

    def sql(self, text: str) -> str:
        return self.host.execute(["mariadb", f"--socket={self.socket}", "-N", "-B"], stdin=text, timeout=60).strip()

    def answers(self) -> None:
        wait = 'for _ in $(seq 150); do mariadb --socket="$1" -e "" 2>/dev/null && exit 0; sleep 0.2; done; exit 1'
        self.host.execute(["sh", "-c", wait, "sh", self.socket], timeout=60)

    def pod(self) -> dict[str, Any]:
        return dict(json.loads(kubectl(self.host, "get", "pod", "db-0", "--output=json")))


@pytest.fixture
async def cluster(world: Any, request: pytest.FixtureRequest) -> Any:
    """A workload of that chart, its database filled, and a target for it."""
    chart = charts.chart(getattr(request, "param", "plain-mariadb"))
    host = world.spare
    install = "cat >/usr/local/bin/kubectl; chmod 755 /usr/local/bin/kubectl"
    host.execute(["sh", "-c", install], stdin=STANDIN.read_text())
    shutil.copy(stores.program(), host.root / "usr/local/bin/rclone")  # the sidecar's image has it
    items = [workload(chart)]
    if chart.resource:
        items.append({"apiVersion": "k8s.mariadb.com/v1alpha1", "kind": "MariaDB", "metadata": {"name": "db"},
                      "spec": {"suspend": False}})  # fmt: skip
    try:
        kubectl(host, "create", "--filename=-", given=json.dumps({"kind": "List", "items": items}))
        made = Cluster(host, chart)
        made.answers()
        made.sql(SETUP)
        await world.deck.secrets.set("pod-login", Sensitive(LOGIN), kind="text", actor=BOSS)
        await world.good("target", **KUBE | {"chart": chart.name})
        yield made
    finally:
        if chart.resource:
            words = ("--type=merge", f"--patch={chart.pause}")
            kubectl(host, "patch", f"{chart.resource}/db", *words, check=False)
        kubectl(host, "scale", "statefulset/db", "--replicas=0", check=False)
        host.execute(["rm", "-rf", HOME, "/usr/local/bin/kubectl", "/usr/local/bin/rclone"])


@pytest.mark.parametrize(
    "cluster", ["plain-mariadb", pytest.param("mariadb-operator", marks=pytest.mark.campaign)], indirect=True
)
async def test_a_pod_is_backed_up_and_its_claim_gets_a_backup_back(world: Any, cluster: Cluster) -> None:
    first = await world.good("run", target="cluster")
    assert first["kind"] == "full"
    cluster.sql("INSERT INTO shop.orders (note) VALUES ('after the full')")
    second = await world.good("run", target="cluster")
    assert second["kind"] == "incremental", second
    before = cluster.sql("CHECKSUM TABLE shop.orders")
    assert cluster.host.execute(["ls", "-A", f"{POD}/opsdeck-run"]).strip() == ""
    cluster.sql("DROP TABLE shop.orders; CREATE DATABASE newer")
    started = cluster.pod()["pid"]

    plan = await world.plan("restore_pod", target="cluster", into="cluster")
    assert cluster.chart.claim_of("db") in [change.target for change in plan.changes]
    assert cluster.pod()["pid"] == started, "a plan changes nothing"
    told = await world.good("restore_pod", target="cluster", into="cluster")
    assert (told["backup"], told["links"]) == (second["backup"], 2)
    assert "tables are sound" in told["server"]
    assert cluster.sql("CHECKSUM TABLE shop.orders") == before
    assert "newer" not in cluster.sql("SHOW DATABASES").split()
    assert cluster.pod()["pid"] != started
    owners = set(cluster.host.execute(["find", cluster.data, "-maxdepth", "1", "-printf", "%U\\n"]).split()) - {"0"}
    assert owners == {"999"}
    kept = cluster.host.execute(["sh", "-c", f"find {HOME}/claims -type d -name newer"]).strip()
    assert ".opsdeck-before-" in kept, "the old data is kept on the claim"
    assert '"Job/' not in cluster.host.execute(["cat", f"{HOME}/objects.json"])
    again = await world.good("run", target="cluster")
    assert (again["kind"], "data folder" in again["reason"]) == ("full", True)
    if cluster.chart.resource:
        assert json.loads(kubectl(cluster.host, "get", cluster.chart.resource, "db", "--output=json"))["spec"] == {
            "suspend": False
        }
        assert not [name for name in cluster.sql("SHOW DATABASES").split() if "opsdeck" in name]


@pytest.mark.campaign
async def test_a_lost_connection_to_the_pod_costs_nothing_and_a_new_pod_is_named(world: Any, cluster: Cluster) -> None:
    cluster.sql(
        "USE shop; CREATE TABLE bulk (noise VARBINARY(1000)); "
        "INSERT INTO bulk SELECT RANDOM_BYTES(1000) FROM seq_1_to_3000"
    )
    await world.good("target", **KUBE | {"chart": "plain-mariadb", "limit": "500k"})
    running = asyncio.create_task(world.good("run", target="cluster"))
    await streaming(cluster)
    cluster.host.execute(["sh", "-c", f"echo 2 >{HOME}/fault"])
    shown = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'"
    seen = cluster.host.execute(["sh", "-c", shown])
    assert (await running)["kind"] == "full"
    assert cluster.host.execute(["cat", f"{HOME}/fault"]).strip() == "0"
    assert world.s3.secret not in seen and "pod-password" not in seen

    running = asyncio.create_task(world.bad("run", target="cluster", full=True))
    await streaming(cluster)
    for replicas in ("0", "1"):
        kubectl(cluster.host, "scale", "statefulset/db", f"--replicas={replicas}")
    assert "the pod was replaced" in await running
    states = [item.state for item in await catalogue.items(world.deck, "cluster")]
    assert states == ["failed", "good"]
    cluster.answers()
    await world.good("target", **KUBE | {"chart": "plain-mariadb"})
    assert (await world.good("run", target="cluster"))["kind"] == "incremental"


@pytest.mark.campaign
async def test_an_empty_claim_begins_a_new_chain_and_takes_nothing_from_the_store(world: Any, cluster: Cluster) -> None:
    first = await world.good("run", target="cluster")
    kubectl(cluster.host, "scale", "statefulset/db", "--replicas=0")
    cluster.host.execute(["sh", "-c", f"rm -rf {cluster.data}"])
    kubectl(cluster.host, "scale", "statefulset/db", "--replicas=1")
    cluster.answers()
    assert "does not answer" in await world.bad("run", target="cluster")
    cluster.sql("CREATE USER opsdeck@localhost IDENTIFIED BY 'pod-password'; GRANT ALL ON *.* TO opsdeck@localhost")
    second = await world.good("run", target="cluster")
    assert (second["kind"], "data folder" in second["reason"]) == ("full", True)
    told = await world.good("restore_pod", target="cluster", into="cluster", backup=first["backup"])
    assert cluster.sql("SELECT COUNT(*) FROM shop.orders") == "1000"
    assert told["backup"] == first["backup"]


@pytest.mark.campaign
async def test_what_does_not_serve_is_taken_back_and_several_pods_are_refused(world: Any, cluster: Cluster) -> None:
    await world.good("run", target="cluster")
    cluster.sql("INSERT INTO shop.orders (note) VALUES ('newer than the backup')")
    # The server is made to refuse what is restored: it insists on a file that only the present data has.
    cluster.host.execute(["sh", "-c", "mv /usr/sbin/mariadbd /usr/sbin/mariadbd.real && cat >/usr/sbin/mariadbd && "
                          "chmod 755 /usr/sbin/mariadbd"],
                         stdin='#!/bin/sh\nfor word; do case $word in --datadir=*) data=${word#*=} ;; esac; done\n'
                               '[ -e "$data/token" ] || exit 1\nexec /usr/sbin/mariadbd.real "$@"\n')  # fmt: skip
    cluster.host.execute(["touch", f"{cluster.data}/token"])
    try:
        assert "timed out" in await world.bad("restore_pod", target="cluster", into="cluster")
    finally:
        cluster.host.execute(["mv", "/usr/sbin/mariadbd.real", "/usr/sbin/mariadbd"])
    cluster.answers()
    assert cluster.sql("SELECT COUNT(*) FROM shop.orders") == "1001"
    objects = json.loads(cluster.host.execute(["cat", f"{HOME}/objects.json"]))
    objects["StatefulSet/db"]["spec"]["replicas"] = 3
    cluster.host.execute(["sh", "-c", f"cat >{HOME}/objects.json"], stdin=json.dumps(objects))
    assert "has 3 pods" in await world.bad("restore_pod", target="cluster", into="cluster")


async def streaming(cluster: Cluster) -> None:
    """Wait until a backup streams in the pod."""
    for _ in range(300):
        if cluster.host.execute(["pgrep", "-f", "mariadb-backup.*--stream"], check=False).strip():
            await asyncio.sleep(1)
            return
        await asyncio.sleep(0.1)
    pytest.fail("no backup began in the pod")
