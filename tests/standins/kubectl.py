#!/usr/bin/python3
"""A strict stand-in for `kubectl` and the cluster behind it, on one host.

It knows the verbs and flags that are documented for kubectl 1.32 and used here, and refuses any other in kubectl's
words. A claim is a folder; a container is a process in a mount namespace of its own that sees the volumes where its
manifest mounts them (read-only where it says so, the rest of the file system read-only where it says so), as the user
and with the capabilities that it names. A database's container really runs mariadbd on its claim.

`/var/lib/standin-kube/fault` holds how many `exec`s are to fail before one works again.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

HOME = Path("/var/lib/standin-kube")
STATE = HOME / "objects.json"
KINDS = {
    "statefulset": "StatefulSet",
    "persistentvolumeclaim": "PersistentVolumeClaim",
    "pod": "Pod",
    "pods": "Pod",
    "job": "Job",
    "service": "Service",
    "mariadb.k8s.mariadb.com": "MariaDB",
}
FLAGS = {
    "get": {"output", "ignore-not-found", "selector"},
    "scale": {"replicas", "timeout", "current-replicas"},
    "wait": {"for", "timeout", "selector"},
    "create": {"filename"},
    "delete": {"cascade", "wait", "timeout", "ignore-not-found"},
    "patch": {"type", "patch"},
    "exec": {"stdin", "container"},
}
NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def die(text: str, status: int = 1) -> NoReturn:
    print(text, file=sys.stderr)
    sys.exit(status)


class Cluster:
    """All objects of one namespace, in a file; one kubectl at a time changes them."""

    def __init__(self) -> None:
        HOME.mkdir(parents=True, exist_ok=True)
        self.lock = (HOME / "lock").open("w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.all: dict[str, Any] = json.loads(STATE.read_text()) if STATE.exists() else {}

    def save(self) -> None:
        STATE.write_text(json.dumps(self.all, indent=1))

    def free(self) -> None:
        fcntl.flock(self.lock, fcntl.LOCK_UN)

    def find(self, kind: str, name: str) -> Any:
        if kind not in KINDS:
            die(f'error: the server doesn\'t have a resource type "{kind}"')
        return self.all.get(f"{KINDS[kind]}/{name}")

    def need(self, word: str) -> Any:
        kind, _, name = word.partition("/")
        found = self.find(kind, name)
        if found is None:
            die(f'Error from server (NotFound): {kind} "{name}" not found')
        return found

    def chosen(self, kind: str, selector: str) -> list[Any]:
        wanted = dict(part.split("=", 1) for part in selector.split(","))
        return [
            one
            for key, one in self.all.items()
            if key.startswith(f"{KINDS[kind]}/")
            and all(one["metadata"].get("labels", {}).get(label) == value for label, value in wanted.items())
        ]


def volume(cluster: Cluster, pod: Any, name: str) -> Path:
    """Give the folder of a pod's volume."""
    for one in pod["spec"].get("volumes", []):
        if one["name"] == name:
            if "persistentVolumeClaim" in one:
                claim = one["persistentVolumeClaim"]["claimName"]
                if f"PersistentVolumeClaim/{claim}" not in cluster.all:
                    die(f'persistentvolumeclaim "{claim}" not found')
                return HOME / "claims" / claim
            if "emptyDir" in one:
                return HOME / "pods" / pod["metadata"]["name"] / name
    die(f'Pod is invalid: spec.containers.volumeMounts: Not found: "{name}"')


def entered(cluster: Cluster, pod: Any, container: Any) -> list[str]:
    """Give the words that run what follows them as that container would."""
    lines = ["set -e"]
    for mount in container.get("volumeMounts", []):
        source = volume(cluster, pod, mount["name"]) / mount.get("subPath", "")
        if not source.exists():
            source.mkdir(parents=True)
            source.chmod(0o777)  # as an emptyDir is, and a folder of a claim under fsGroup for its group
        Path(mount["mountPath"]).mkdir(parents=True, exist_ok=True)
        lines.append(f"mount --bind {source} {mount['mountPath']}")
        if mount.get("readOnly"):
            lines.append(f"mount -o remount,bind,ro {mount['mountPath']}")
    security = pod["spec"].get("securityContext", {}) | container.get("securityContext", {})
    if security.get("readOnlyRootFilesystem"):
        lines.append("mount -o remount,bind,ro /")
    uid = security.get("runAsUser", 0)
    if security.get("runAsNonRoot") and uid == 0:
        die("Error: container has runAsNonRoot and image will run as root")
    group = security.get("runAsGroup", 0 if uid == 0 else uid)
    words = f"--reuid={uid} --regid={group} --clear-groups"
    if "capabilities" in security:
        added = [name.lower() for name in security["capabilities"].get("add", [])]
        words += f" --inh-caps=-all --bounding-set=-all{''.join(f',+{name}' for name in added)}"
    lines.append(f'exec setpriv {words} -- "$@"')
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", "\n".join(lines), "sh"]


def start(cluster: Cluster, name: str, template: Any, labels: dict[str, str], claims: list[Any]) -> None:
    """Start a pod; a container with a database runs its server."""
    spec = json.loads(json.dumps(template["spec"]))
    mounted = [{"name": n, "persistentVolumeClaim": {"claimName": c}} for n, c in claims]
    spec["volumes"] = [*spec.get("volumes", []), *mounted]
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec,
        "status": {"phase": "Running"},
    }  # fmt: skip
    cluster.all[f"Pod/{name}"] = pod
    for container in spec["containers"]:
        if container["name"] == "mariadb":
            serve(cluster, pod, container)


def serve(cluster: Cluster, pod: Any, container: Any) -> None:
    data = next((word[10:] for word in container.get("args", []) if word.startswith("--datadir=")), "/var/lib/mysql")
    socket = next((m["mountPath"] for m in container["volumeMounts"] if "run" in m["mountPath"]), data)
    words = entered(cluster, pod, container)
    fresh = f'[ -d "{data}/mysql" ] || mariadb-install-db --no-defaults --datadir={data} --skip-test-db ' \
            "--auth-root-authentication-method=normal >/dev/null; "  # fmt: skip
    run = f"exec mariadbd --no-defaults --datadir={data} --socket={socket}/mysqld.sock --skip-networking " \
          f"--pid-file={socket}/mysqld.pid --log-error={socket}/mysqld.err --innodb-buffer-pool-size=32M"  # fmt: skip
    process = subprocess.Popen(
        [*words, "sh", "-c", f"mkdir -p {data}; {fresh}{run}"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    pod["pid"] = process.pid


def stop(cluster: Cluster, name: str) -> None:
    """End a pod: its server and all that was begun in it; what lay in its emptyDirs is gone."""
    pod = cluster.all.pop(f"Pod/{name}", None)
    if pod is None:
        return
    if "pid" in pod and alive(pod["pid"]):
        os.kill(pod["pid"], signal.SIGTERM)
        for _ in range(600):
            if not alive(pod["pid"]):
                break
            time.sleep(0.1)
    folder = HOME / "pods" / name
    for file in folder.glob("opsdeck-run/*.pid"):
        try:
            os.killpg(int(file.read_text()), signal.SIGKILL)
        except (ValueError, ProcessLookupError):
            pass
    shutil.rmtree(folder, ignore_errors=True)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def reconcile(cluster: Cluster, one: Any) -> None:
    """Bring a StatefulSet's pod in line with what it wants."""
    name = one["metadata"]["name"]
    pod, wanted = f"{name}-0", one["spec"].get("replicas", 1)
    claims = []
    for template in one["spec"].get("volumeClaimTemplates", []):
        claim = f"{template['metadata']['name']}-{pod}"
        claims.append((template["metadata"]["name"], claim))
        folder = HOME / "claims" / claim
        if not folder.exists():
            folder.mkdir(parents=True)
            folder.chmod(0o777)
            (folder / "lost+found").mkdir(mode=0o700)
        cluster.all[f"PersistentVolumeClaim/{claim}"] = {
            "kind": "PersistentVolumeClaim", "metadata": {"name": claim}, "status": {"phase": "Bound"},
        }  # fmt: skip
    if wanted and f"Pod/{pod}" not in cluster.all:
        start(cluster, pod, one["spec"]["template"], one["spec"]["template"]["metadata"]["labels"], claims)
    elif not wanted:
        stop(cluster, pod)


def create(cluster: Cluster, manifest: Any) -> None:
    for field in ("apiVersion", "kind", "metadata", "spec"):
        if field not in manifest:
            die(f"error: error validating data: {field} not set")
    kind, name = manifest["kind"], manifest["metadata"]["name"]
    if kind not in KINDS.values() or not NAME.fullmatch(name):
        die(f'error: unable to recognize "STDIN": no matches for kind "{kind}" or name "{name}"')
    if f"{kind}/{name}" in cluster.all:
        die(f'Error from server (AlreadyExists): "{name}" already exists')
    cluster.all[f"{kind}/{name}"] = manifest
    if kind == "StatefulSet":
        reconcile(cluster, manifest)
    if kind == "Job":
        for pod in [one for key, one in cluster.all.items() if key.startswith("Pod/")]:
            taken = {
                v["persistentVolumeClaim"]["claimName"] for v in pod["spec"]["volumes"] if "persistentVolumeClaim" in v
            }
            mine = {
                v["persistentVolumeClaim"]["claimName"]
                for v in manifest["spec"]["template"]["spec"]["volumes"]
                if "persistentVolumeClaim" in v
            }
            if taken & mine:
                die("Warning: FailedAttachVolume: the claim is used by another pod")
        start(cluster, f"{name}-x7k2p", manifest["spec"]["template"], {"job-name": name}, [])


def execute(cluster: Cluster, words: list[str], flags: dict[str, str], command: list[str]) -> NoReturn:
    if len(words) != 1 or not command:
        die("error: you must specify at least one command for the container")
    fault = HOME / "fault"
    if fault.exists() and (left := int(fault.read_text() or 0)) > 0:
        fault.write_text(str(left - 1))
        die("error: unable to upgrade connection: EOF")
    pod = cluster.all.get(f"Pod/{words[0]}")
    if pod is None:
        die(f'Error from server (NotFound): pods "{words[0]}" not found')
    found = [one for one in pod["spec"]["containers"] if one["name"] == flags.get("container")]
    if not found:
        die(f"error: container {flags.get('container')} is not valid for pod {words[0]}")
    argv = entered(cluster, pod, found[0])
    cluster.free()
    done = subprocess.run(
        [*argv, *command], stdin=None if flags.get("stdin") else subprocess.DEVNULL, close_fds=True,
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/"},
    )  # fmt: skip
    if done.returncode:
        die(f"command terminated with exit code {done.returncode}", done.returncode if done.returncode > 0 else 137)
    sys.exit(0)


def parsed(argv: list[str]) -> tuple[str, list[str], dict[str, str], list[str]]:
    words: list[str] = []
    flags: dict[str, str] = {}
    command: list[str] = []
    for at, word in enumerate(argv):
        if word == "--":
            command = argv[at + 1 :]
            break
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            flags[name] = value or "true"
        elif word.startswith("-"):
            die(f"error: unknown shorthand flag: {word!r}")
        else:
            words.append(word)
    verb = words[0] if words else ""
    if verb not in FLAGS:
        die(f'error: unknown command "{verb}" for "kubectl"')
    if unknown := set(flags) - FLAGS[verb] - {"namespace", "kubeconfig"}:
        die(f"error: unknown flag: --{unknown.pop()}")
    if flags.get("namespace") != "shop":
        die('Error from server (Forbidden): the namespace is another than "shop"')
    if command and verb != "exec":
        die("error: unexpected arguments after --")
    return verb, words[1:], flags, command


def main() -> None:
    verb, words, flags, command = parsed(sys.argv[1:])
    cluster = Cluster()
    if verb == "exec":
        execute(cluster, words, flags, command)
    if verb == "get":
        if flags.get("output") != "json":
            die("the stand-in answers with --output=json only")
        if "selector" in flags:
            print(json.dumps({"kind": "List", "items": cluster.chosen(words[0], flags["selector"])}))
            return
        found = cluster.find(words[0], words[1])
        if found is None and "ignore-not-found" not in flags:
            die(f'Error from server (NotFound): "{words[1]}" not found')
        print(json.dumps(found) if found else "", end="")
    elif verb == "create":
        given = json.load(sys.stdin)
        for manifest in given["items"] if given.get("kind") == "List" else [given]:
            create(cluster, manifest)
    elif verb == "scale":
        one = cluster.need(words[0])
        one["spec"]["replicas"] = int(flags["replicas"])
        if any(other.get("spec", {}).get("suspend") is False for other in cluster.all.values()):
            one["spec"]["replicas"] = 1  # an operator that was not told to wait
        reconcile(cluster, one)
    elif verb == "patch":
        one = cluster.need(words[0])
        if flags.get("type") != "merge":
            die("error: --type must be one of [json merge strategic]")
        one["spec"] |= json.loads(flags["patch"])["spec"]
    elif verb == "delete":
        one = cluster.need(words[0])
        name = one["metadata"]["name"]
        for pod in cluster.chosen("pod", f"job-name={name}"):
            stop(cluster, pod["metadata"]["name"])
        del cluster.all[f"{one['kind']}/{name}"]
    elif verb == "wait":
        if flags["for"] == "jsonpath={.status.readyReplicas}=1":
            pod = cluster.all.get(f"Pod/{cluster.need(words[0])['metadata']['name']}-0")
            time.sleep(1)
            if pod is None or ("pid" in pod and not alive(pod["pid"])):
                die("error: timed out waiting for the condition on statefulsets")
        elif flags["for"] == "delete":
            if cluster.all.get("Pod/" + words[0].removeprefix("pod/")) is not None:
                die("error: timed out waiting for the condition on pods")
        elif flags["for"] != "condition=Ready" or not cluster.chosen("pod", flags["selector"]):
            die("error: no matching resources found")
    cluster.save()


main()
