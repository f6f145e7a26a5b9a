"""Files, folders and users on real hosts, as root and through sudo."""

from __future__ import annotations

import pytest

from opsdeck.errors import Refused
from opsdeck.remote import directories, files, users
from opsdeck.remote.directories import Directory
from opsdeck.remote.errors import CheckRefused, NotDone
from opsdeck.remote.files import File
from opsdeck.remote.users import User
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.ssh.errors import DiskFull, SudoRefused


@pytest.mark.parametrize("user", ["root", "ops", "opspw"])
async def test_root_files_by_every_way_to_root(reach, fleet, user):
    host = reach("web1", user)
    wanted = File("/etc/opsdeck-test.conf", f"{user}\n".encode(), 0o640, "root:ops")
    assert await files.apply(host, [wanted]) == (wanted.path,)
    assert await files.plan(host, [wanted]) == ()
    assert fleet.host("web1").execute(["stat", "-c", "%a %U %G", wanted.path]).split() == ["640", "root", "ops"]
    assert await files.put_back(host, [wanted.path]) == (wanted.path,)


async def test_a_wrong_sudo_password_is_refused_at_once(reach, fleet):
    host = reach("web1", "opspw", sudo_password=Sensitive("not the password"))
    with pytest.raises(SudoRefused):
        await files.apply(host, [File("/etc/opsdeck-refused", b"x")])
    assert "refused" not in fleet.host("web1").execute(["ls", "/etc"])


async def test_the_real_checker_judges(reach, fleet):
    host = reach("web1", "ops")
    path = "/etc/sudoers.d/opsdeck-test"
    check = ("visudo", "-cf", "{}")
    with pytest.raises(CheckRefused, match="syntax error"):
        await files.apply(host, [File(path, b"this is no rule\n", 0o440, "root:root", check)])
    assert fleet.host("web1").execute(["ls", "-A", "/etc/sudoers.d"]).split().count("opsdeck-test") == 0
    await files.apply(host, [File(path, b"daemon ALL=(root) NOPASSWD: /bin/true\n", 0o440, "root:root", check)])
    await files.apply(host, [File(path, None)], keep_previous=False)


async def test_a_full_disk_leaves_everything_as_it_was(reach, fleet):
    lab = fleet.host("small1")
    host = reach("small1")
    await files.apply(host, [File("/srv/conf", b"old\n")], keep_previous=False)
    lab.fill()
    try:
        for times in (10, 300_000):
            with pytest.raises(DiskFull, match="no room for /srv/conf") as caught:
                await files.apply(host, [File("/srv/conf", b"new\n" * times)])
            assert caught.value.host == "small1"
    finally:
        lab.empty()
    assert lab.execute(["cat", "/srv/conf"]) == "old\n"
    assert lab.execute(["ls", "-A", "/srv"]).split() == ["conf"]


async def test_folders(reach):
    host = reach("web1", "ops")
    wanted = [Directory("/srv/a 'b'/c", 0o750, "ops:ops")]
    assert [change.detail for change in await directories.apply(host, wanted)] == ["mode 0750, owner ops:ops"]
    assert await directories.plan(host, wanted) == ()
    with pytest.raises(Refused, match="not empty"):
        await directories.apply(host, [Directory("/srv/a 'b'", there=False)])
    await directories.apply(host, [Directory("/srv/a 'b'/c", there=False), Directory("/srv/x", 0o700)])
    await directories.apply(host, [Directory("/srv/a 'b'", there=False), Directory("/srv/x", there=False)])
    (state, _) = await directories.look(host, ["/srv/a 'b'", "/srv/x"])
    assert state.kind == "absent"


async def test_users(reach, fleet):
    host = reach("web1", "ops")
    bob = User("bob", groups=("sudo",), keys=("ssh-ed25519 AAAA bob's key $(id)",))
    (change,) = await users.apply(host, bob)
    assert change.verb == "create"
    assert await users.apply(host, bob) == ()
    text = fleet.host("web1").execute(["sh", "-c", "id -nG bob; stat -c %a%U /home/bob/.ssh/authorized_keys"])
    assert text.split() == ["bob", "sudo", "600bob"]
    (change,) = await users.apply(host, User("bob", shell="/bin/sh", keys=()))  # noqa: S604 - no shell is run
    assert change.detail == "shell /bin/sh, 0 keys"
    await users.apply(host, User("bob", there=False))
    assert await users.apply(host, User("bob", there=False)) == ()
    with pytest.raises(NotDone, match="nogroup-x"):
        await users.apply(host, User("carl", groups=("nogroup-x",)))
    await users.apply(host, User("carl", there=False))
