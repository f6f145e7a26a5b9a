"""What is handed to a cluster: manifests against Kubernetes' own schemas, nothing secret, nothing unknown."""

from __future__ import annotations

import base64
import json
import subprocess

import kubernetes_validate
import pytest
import yaml
from opsdeck_backup import targets
from opsdeck_backup.kube import charts, handed, pod
from opsdeck_backup.models import Item, Target
from pydantic import ValidationError

from opsdeck.clock import utcnow
from opsdeck.errors import NotFound, Refused
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.ssh.command import Script

IMAGE = "registry.example/opsdeck-backup:mariadb-11.8"
KUBE = {
    "name": "shop", "kind": "kubernetes", "host": "web1", "remote": "store:backups", "store_secret": "s3",
    "key_secret": "key", "chart": "bitnami-mysql", "engine": "mysql", "namespace": "shop", "workload": "db-mysql",
}  # fmt: skip


def valid(manifest: object) -> None:
    """Check a manifest strictly: a field that Kubernetes does not know is a fault."""
    kubernetes_validate.validate(manifest, "1.33", strict=True)


def pod_with(kept: charts.Chart, given: list[charts.Node]) -> dict[str, object]:
    """Put what is handed to a chart into a pod like the chart's own."""
    (value,) = given
    if kept.name.startswith("bitnami"):
        sidecars, volumes = value["primary"]["sidecars"], value["primary"]["extraVolumes"]
        assert set(value["primary"]) == {"sidecars", "extraVolumes"}
        theirs = ["data", "empty-dir"]
    elif kept.name == "mariadb-operator":
        sidecars, volumes = value["spec"]["sidecarContainers"], value["spec"]["volumes"]
        theirs = ["storage"]
        assert set(sidecars[0]) <= {
            "name",
            "image",
            "imagePullPolicy",
            "command",
            "args",
            "env",
            "volumeMounts",
            "resources",
        }
    else:
        sidecars, volumes = value["spec"]["mysql"]["sidecars"], value["spec"]["mysql"]["sidecarVolumes"]
        theirs = ["datadir"]
    mounted = {mount["name"] for mount in sidecars[0]["volumeMounts"]}
    assert mounted <= {volume["name"] for volume in volumes} | set(theirs)
    volumes = [*volumes, *({"name": name, "emptyDir": {}} for name in theirs)]
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"},
        "spec": {"containers": sidecars, "volumes": volumes},
    }  # fmt: skip


@pytest.mark.parametrize("name", charts.CHARTS)
def test_what_is_handed_to_a_chart_is_valid_and_can_only_read_the_data(name):
    kept = charts.chart(name)
    given = charts.values(kept, IMAGE, "db")
    if name == "plain-mariadb":
        for manifest in given:
            valid(manifest)
    else:
        valid(pod_with(kept, given))
    beside = charts.sidecar(kept, IMAGE)
    data = next(mount for mount in beside["volumeMounts"] if mount["name"] == kept.volume)
    assert data["readOnly"] is True
    assert kept.data.startswith(kept.mount)
    assert list(yaml.safe_load_all(yaml.safe_dump_all(given))) == given


@pytest.mark.parametrize("name", charts.CHARTS)
def test_the_job_on_the_claim_is_valid_and_may_no_more_than_it_needs(name):
    kept = charts.chart(name)
    job = charts.job(kept, name="opsdeck-restore-7", namespace="shop", claim=kept.claim_of("db"), image=IMAGE)
    valid(job)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
    assert "privileged" not in json.dumps(job)


def test_the_check_finds_a_field_that_does_not_exist():
    job = charts.job(charts.chart("plain-mariadb"), name="x", namespace="y", claim="z", image=IMAGE)
    job["spec"]["template"]["spec"]["containers"][0]["runAsUser"] = 0
    with pytest.raises(kubernetes_validate.ValidationError):
        valid(job)


def test_an_operator_is_told_to_wait_by_its_own_resource():
    assert charts.chart("mariadb-operator").resource_of("db") == "mariadb.k8s.mariadb.com/db"
    assert charts.chart("percona-operator").resource_of("db-mysql") == "perconaservermysql.ps.percona.com/db"
    assert charts.chart("bitnami-mysql").resource_of("db-mysql") == ""
    with pytest.raises(NotFound, match="helm"):
        charts.chart("helm")


@pytest.mark.parametrize("engine", ["mariadb", "mysql"])
def test_the_image_has_every_program_and_is_of_the_servers_series(engine):
    text = charts.containerfile(engine)
    for program in ("age", "rclone", "zstd", "tini"):
        assert program in text
    assert ":latest" not in text
    assert "ARG SERIES" in text
    assert "USER " in text


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"namespace": ""}, "needs namespace"),
        ({"workload": "", "chart": ""}, "needs chart, workload"),
        ({"kind": "host"}, "is for targets in Kubernetes"),
        ({"engine": "mariadb"}, "bitnami-mysql runs mysql"),
        ({"namespace": "a b"}, "small letters"),
        ({"pod": "-x"}, "small letters"),
        ({"workload": "db;rm"}, "small letters"),
        ({"kubeconfig": "../x"}, "kubeconfig"),
        ({"chart": "helm"}, "chart"),
    ],
)
def test_a_wrong_place_in_a_cluster_is_named(wrong, said):
    with pytest.raises(ValidationError) as caught:
        targets.TargetParams(**KUBE | wrong)
    assert said in str(caught.value)


def test_the_form_knows_every_chart():
    offered = targets.TargetParams.model_json_schema()["properties"]["chart"]["enum"]
    assert [name for name in offered if name] == list(charts.CHARTS)


def row(**changed: str) -> Target:
    given = targets.TargetParams(**KUBE | changed).model_dump()
    return Target(**given)


def test_kubectl_gets_names_and_no_text():
    words = pod.kubectl(row(kubeconfig="/etc/k3s.yaml"), "get", "pods")
    assert words == ("kubectl", "--kubeconfig=/etc/k3s.yaml", "--namespace=shop", "get", "pods")
    assert pod.pod_of(row()) == "db-mysql-0"
    assert pod.pod_of(row(pod="db-mysql-1")) == "db-mysql-1"
    text = pod.options(row(), Sensitive("[client]\nuser=x\n")).reveal()
    assert text.endswith("[client]\nsocket=/opt/bitnami/mysql/tmp/mysql.sock\n")
    assert "user=x" in text


@pytest.mark.parametrize("words", [(), ("a", "b c", "", 'it\'s "x" $(y)', "two\nlines"), ("é" * 3000,)])
def test_text_words_and_secrets_arrive_as_they_are(words):
    script = Script('printf "%s|" "$#" "$@"; cat', words)
    stream = pod.packed(script, Sensitive("secret line\n"))
    done = subprocess.run(["sh", "-c", pod._RUN, "sh"], input=stream.reveal().encode(), capture_output=True, timeout=20)
    assert done.stdout.decode() == "|".join((str(len(words)), *words, "secret line\n"))
    assert base64.b64encode(b"secret") not in stream.reveal().encode()


def test_what_a_person_is_given_is_named_after_the_servers_series():
    cluster = row()
    assert handed.image(cluster) == "registry.example/opsdeck-backup:mysql-SERIES"
    seen = Item(id="x", target="shop", chain="x", kind="full", started=utcnow(), version="8.4.6-6")
    image = handed.image(cluster, [seen])
    assert image == "registry.example/opsdeck-backup:mysql-8.4"
    (values,) = yaml.safe_load_all(handed.values(cluster, image))
    assert values["primary"]["sidecars"][0]["image"] == image
    assert "percona-xtrabackup" in handed.containerfile(cluster)
    with pytest.raises(Refused, match="not in Kubernetes"):
        handed.values(Target(name="wiki", host="web1", remote="store:x", store_secret="s3"), image)
