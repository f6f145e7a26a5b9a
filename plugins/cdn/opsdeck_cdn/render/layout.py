"""Where everything of an edge lies on its host, and the text of its two units.

All of it works, and can be mended by hand, with the console gone: plain files, systemd units, no agent.
"""

from __future__ import annotations

ROOT = "/etc/opsdeck/cdn"
GENERATIONS = f"{ROOT}/generations"
CURRENT = f"{ROOT}/current"
"""A link to the generation in force."""
EPOCHS = f"{ROOT}/epochs"
ROOTS = f"{ROOT}/acme-roots.pem"
THUMBPRINT = f"{ROOT}/acme-thumbprint"
"""Of the key of the ACME account: what a challenge is answered with, whichever edge ordered. No secret."""
CACHE = "/var/cache/opsdeck-cdn"
STATE = "/var/lib/opsdeck-cdn"
STORE = f"{STATE}/caddy"
LOGS = "/var/log/opsdeck-cdn"
RUN_FRONT = "/run/opsdeck-cdn-front"
RUN_CACHE = "/run/opsdeck-cdn-cache"
ADMIN = f"{RUN_FRONT}/admin.sock"
ORIGIN_SOCKET = f"{RUN_FRONT}/origin.sock"
CACHE_SOCKET = f"{RUN_CACHE}/cache.sock"
CACHE_PID = f"{RUN_CACHE}/nginx.pid"
USER = "opsdeck-cdn"
NGINX = "/usr/sbin/nginx"
CADDY = "/opt/opsdeck/artefacts/caddy/current/caddy"
FRONT_UNIT = "opsdeck-cdn-front.service"
CACHE_UNIT = "opsdeck-cdn-cache.service"
LOG_FILE = f"{LOGS}/edge.json"


def epoch_file(site: str) -> str:
    """Give the file that holds a site's epoch."""
    return f"{EPOCHS}/{site}.conf"


def purge_word(site: str) -> str:
    """Give the file whose word is another after every purge of the site: what was asked for before is not kept."""
    return f"{EPOCHS}/{site}.purge"


def cache_folder(site: str) -> str:
    """Give the folder of a site's cache."""
    return f"{CACHE}/{site}"


def cache_unit() -> bytes:
    """Give the unit of the cache."""
    return f"""# Made by OpsDeck (plugin cdn).
[Unit]
Description=OpsDeck CDN: cache
After=network.target

[Service]
Type=simple
# A socket that was left by a power cut would keep nginx from listening.
ExecStartPre=-/bin/rm -f {CACHE_SOCKET}
ExecStartPre={NGINX} -t -q -c {CURRENT}/nginx.conf
ExecStart={NGINX} -c {CURRENT}/nginx.conf -g "daemon off;"
ExecReload=/bin/kill -HUP $MAINPID
KillMode=mixed
KillSignal=SIGQUIT
TimeoutStopSec=15
Restart=always
RestartSec=1
RuntimeDirectory=opsdeck-cdn-cache
LimitNOFILE=65536
ProtectHome=yes
PrivateTmp=yes

[Install]
WantedBy=multi-user.target
""".encode()


def front_unit(directory: str) -> bytes:
    """Give the unit of the front; `directory` is that of the CA."""
    return f"""# Made by OpsDeck (plugin cdn). Certificates come from {directory}
[Unit]
Description=OpsDeck CDN: front
After=network-online.target
Wants=network-online.target

[Service]
Type=notify
User={USER}
Group={USER}
Environment=HOME={STATE} XDG_DATA_HOME={STATE} XDG_CONFIG_HOME={STATE}
ExecStart={CADDY} run --config {CURRENT}/caddy.json
ExecReload={CADDY} reload --config {CURRENT}/caddy.json --address unix/{ADMIN} --force
TimeoutStopSec=15
Restart=always
RestartSec=1
RuntimeDirectory=opsdeck-cdn-front
StateDirectory=opsdeck-cdn
LogsDirectory=opsdeck-cdn
AmbientCapabilities=CAP_NET_BIND_SERVICE
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
NoNewPrivileges=yes
LimitNOFILE=1048576
ProtectHome=yes
PrivateTmp=yes

[Install]
WantedBy=multi-user.target
""".encode()
