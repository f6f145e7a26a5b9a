"""The one script that reads everything, and the cutting of its output.

POSIX sh, nothing to install, no Python on the host. Each section's output is bounded, its complaints are dropped,
and a tool that is missing leaves its section empty. A random mark begins each section, so nothing that a login
prints or a file holds is mistaken for a border.
"""

from __future__ import annotations

import secrets

from opsdeck.ssh.command import Script

SECTION_BYTES = 48 * 1024
SECONDS = 60.0

SECTIONS: dict[str, str] = {
    "clock": "date +%s.%N",
    "os": "cat /etc/os-release",
    "debian": "cat /etc/debian_version",
    "uname": "uname -n; uname -r; uname -m; uname -v",
    "architecture": "dpkg --print-architecture",
    "virtualisation": "systemd-detect-virt",
    "product": "cat /sys/class/dmi/id/sys_vendor /sys/class/dmi/id/product_name",
    "cpu": "getconf _NPROCESSORS_ONLN; grep -m1 -iE '^(model name|hardware|cpu model)' /proc/cpuinfo",
    "memory": "cat /proc/meminfo",
    "filesystems": "timeout 10 df -PTk -x tmpfs -x devtmpfs -x squashfs -x overlay -x efivarfs; timeout 5 df -PTk /",
    "disks": "lsblk -dbnP -e 7,11,1 -o NAME,SIZE,TYPE,ROTA,MODEL",
    "addresses": "ip -o addr show scope global",
    "route": "ip -o -4 route show default; ip -o -6 route show default",
    "uptime": "cat /proc/uptime",
    "boot": "cat /proc/sys/kernel/random/boot_id; grep '^btime ' /proc/stat",
    "machine": "cat /etc/machine-id",
    "zone": "cat /etc/timezone; readlink -f /etc/localtime",
    "synchronised": "[ -d /run/systemd/system ] && timeout 5 timedatectl show -p NTPSynchronized --value",
    "sshd": "sshd -V 2>&1 | grep -o 'OpenSSH_[^ ,]*' | head -n 1",
    "systemd": "[ -d /run/systemd/system ] && systemctl --version | head -n 1 && timeout 5 systemctl is-system-running",
    "failed": (
        "[ -d /run/systemd/system ] && echo listed && timeout 10 systemctl list-units --failed --no-legend --plain"
    ),
    "packages": "dpkg-query -W -f '${db:Status-Abbrev}\\n' | grep -c '^ii'",
    "upgrades": (
        "command -v apt-get && nice timeout 25 apt-get -s -q -o Debug::NoLocking=true upgrade --with-new-pkgs"
        " | grep '^Inst '"
    ),
    "lists": "stat -c %Y /var/lib/apt/lists",
    "reboot": "[ -e /run/reboot-required ] && echo yes || echo no",
    "listening": "ss -Hltun",
    "login": 'id -u; id -un; getent passwd "$(id -u)" | cut -d: -f7',
    "sudo": (
        'if [ "$(id -u)" = 0 ]; then echo root; elif ! command -v sudo >/dev/null; then echo missing; '
        "elif sudo -n true; then echo nopasswd; else echo password; fi"
    ),
    "shell": (
        'shell=$(getent passwd "$(id -u)" | cut -d: -f7); date +%s%N; '
        'timeout 10 "${shell:-/bin/sh}" -c : </dev/null >/dev/null; date +%s%N'
    ),
    "containers": (
        "for tool in docker podman containerd lxc kubelet k3s kubectl; do "
        'command -v "$tool" >/dev/null && echo "$tool"; done; true'
    ),
    "tun": "if (exec 3<>/dev/net/tun); then echo yes; else echo no; fi",
    "end": "date +%s.%N",
}
"""Section → the shell text that fills it. Kept in order: the clock is read first and last."""


def new_mark() -> str:
    """Give a mark that no host can guess."""
    return f"opsdeck-{secrets.token_hex(12)}"


def script(mark: str, sections: dict[str, str] = SECTIONS, *, seconds: float = SECONDS) -> Script:
    """Give the script that prints each section behind `mark`."""
    lines = [
        "exec 2>/dev/null </dev/null",
        "LC_ALL=C PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin; export LC_ALL PATH; unset LANGUAGE",
        'section() { printf \'\\n%s %s\\n\' "$1" "$2"; }',
    ]
    for name, text in sections.items():
        lines.append(f'section "$1" {name}')
        lines.append(f"{{ {text}\n}} | head -c {SECTION_BYTES}")
    lines.append('section "$1" done')
    return Script(text="\n".join(lines), args=(mark,), timeout=seconds)


def split(output: bytes, mark: str) -> dict[str, str]:
    """Cut the output at its marks; give text by section, without those that are empty.

    Whatever stands before the first mark is none of ours. Bytes that are no UTF-8 are kept as `\\xNN`. The section
    `done` is there ("" as text) only when the output is whole.
    """
    sections: dict[str, str] = {}
    pieces = output.split(b"\n" + mark.encode() + b" ")
    for piece in pieces[1:]:
        name, _, body = piece.partition(b"\n")
        text = body.decode("utf-8", "backslashreplace").strip("\n")
        key = name.decode("ascii", "replace")
        if text or key == "done":
            sections[key] = text
    return sections
