"""The Compose form as text; that Compose accepts it is shown on the fleet."""

from __future__ import annotations

import yaml
from opsdeck_vpn.render.compose import DOOR_USER, compose_yaml, folders, rendered, subnet
from opsdeck_vpn.render.gateway import Gateway, carried

from opsdeck.secrets.sensitive import Sensitive


def gateway(name: str = "office", control: int = 17505, listen: str = "192.0.2.1") -> Gateway:
    hidden = Sensitive("hidden-password")
    return Gateway(name, "openvpn", Sensitive("remote a 1 udp\n"), True, listen, 1081, control, hidden, hidden)


def test_the_port_is_published_at_one_address_and_the_socks_server_has_no_rights() -> None:
    given = yaml.safe_load(compose_yaml(gateway()))
    dial, door = given["services"]["dial"], given["services"]["door"]
    assert dial["ports"] == ["192.0.2.1:1081:1080", "127.0.0.1:17505:17505"]
    assert dial["cap_add"] == ["NET_ADMIN"]
    assert door["cap_add"] == ["SETGID", "SETUID"]
    assert door["command"][-1] == str(DOOR_USER)
    assert "ports" not in door
    assert door["network_mode"] == "service:dial"
    assert str(DOOR_USER) in carried("tunnel.sh").decode()
    assert yaml.safe_load(compose_yaml(gateway(listen="::1")))["services"]["dial"]["ports"][0] == "[::1]:1081:1080"


def test_no_two_tunnels_share_a_network_and_none_is_of_docker_s_pool() -> None:
    nets = [subnet(gateway(control=control)) for control in range(17505, 18500)]
    assert len(set(nets)) == len(nets)
    assert all(net.startswith("198.18.") or net.startswith("198.19.") for net in nets)


def test_no_secret_lies_open_and_none_reaches_the_image() -> None:
    files = rendered(gateway(), ("docker", "compose"))
    for file in files:
        if isinstance(file.content, bytes):
            assert b"hidden-password" not in file.content
        elif isinstance(file.content, Sensitive):
            assert file.mode == 0o600
    (image,) = [file.path for file in files if "Dockerfile" in file.path]
    context = image.rpartition("/")[0]
    assert [file.path for file in files if file.path.startswith(context + "/")] == [image]
    assert {folder.path for folder in folders(gateway())} >= {context}
    (compose,) = [file for file in files if file.path.endswith("compose.yaml")]
    assert compose.check == ("docker", "compose", "-f", "{}", "config", "-q")


def test_a_name_of_a_variable_stays_a_word() -> None:
    assert "$" not in compose_yaml(gateway()).replace("$$", "")
