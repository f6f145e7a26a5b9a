"""Files there and back: whole or not at all."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from opsdeck.errors import Invalid, NotFound
from opsdeck.ssh.endpoint import Sudo
from opsdeck.ssh.errors import DiskFull, LinkLost, TransferFailed


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".opsdeck")]


@pytest.mark.parametrize("size", [0, 1, 65_536, 3_000_001])
async def test_there_and_back(pool, hosts, tmp_path, size):
    endpoint = hosts["web1"].endpoint()
    data = os.urandom(size)
    place = tmp_path / "a 'quoted' $(name)\n"
    seen: list[tuple[int, int]] = []
    await pool.put(endpoint, data, str(place), mode=0o640, progress=lambda sent, of: seen.append((sent, of)))
    assert place.read_bytes() == data
    assert place.stat().st_mode & 0o7777 == 0o640
    if size:
        assert seen[-1] == (size, size)
    assert await pool.get(endpoint, str(place), limit=size) == data
    local = tmp_path / "local"
    seen.clear()
    assert await pool.fetch(endpoint, str(place), local, progress=lambda got, of: seen.append((got, of))) == size
    assert local.read_bytes() == data
    assert seen[-1] == (size, size)
    assert left_over(tmp_path) == []


async def test_a_file_from_here_and_a_relative_place(pool, hosts, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(1_500_000))
    await pool.put(hosts["web1"].endpoint(), source, "-odd name")
    assert (hosts["web1"].home / "-odd name").read_bytes() == source.read_bytes()
    assert await pool.get(hosts["web1"].endpoint(), "-odd name", limit=1_500_000) == source.read_bytes()


async def test_a_link_is_replaced_and_not_followed(pool, hosts, tmp_path):
    (tmp_path / "real").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    await pool.put(hosts["web1"].endpoint(), b"new", str(tmp_path / "link"))
    assert (tmp_path / "real").read_text() == "kept"
    assert (tmp_path / "link").read_text() == "new"


async def test_what_is_not_there_or_too_large_is_told(pool, hosts, tmp_path):
    endpoint = hosts["web1"].endpoint()
    with pytest.raises(NotFound) as caught:
        await pool.get(endpoint, str(tmp_path / "none"))
    assert caught.value.file == str(tmp_path / "none")
    with pytest.raises(NotFound):
        await pool.fetch(endpoint, str(tmp_path / "none"), tmp_path / "local")
    (tmp_path / "big").write_bytes(b"x" * 1001)
    with pytest.raises(TransferFailed, match="larger than 1000"):
        await pool.get(endpoint, str(tmp_path / "big"), limit=1000)
    with pytest.raises(TransferFailed, match="directory"):
        await pool.get(endpoint, str(tmp_path))
    with pytest.raises(TransferFailed, match="cannot be written here"):
        await pool.fetch(endpoint, str(tmp_path / "big"), tmp_path / "no" / "such")
    with pytest.raises(TransferFailed, match="cannot be read here"):
        await pool.put(endpoint, tmp_path / "none", "x")
    assert not (tmp_path / "local").exists()
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("remote", ["", "folder/"])
async def test_a_place_that_names_no_file_is_told(pool, hosts, remote):
    with pytest.raises(Invalid):
        await pool.put(hosts["web1"].endpoint(), b"", remote)


async def test_a_folder_in_the_way_or_missing_is_told(pool, hosts, tmp_path):
    with pytest.raises(TransferFailed, match="directory"):
        await pool.put(hosts["web1"].endpoint(), b"x", str(tmp_path))
    with pytest.raises(TransferFailed) as caught:
        await pool.put(hosts["web1"].endpoint(), b"x", str(tmp_path / "no" / "file"))
    assert caught.value.hint


async def test_an_owner_that_does_not_exist_leaves_the_old_file(pool, hosts, tmp_path):
    place = tmp_path / "file"
    place.write_text("old")
    with pytest.raises(TransferFailed, match="no-such-user"):
        await pool.put(hosts["web1"].endpoint(), b"new", str(place), owner="no-such-user")
    assert place.read_text() == "old"
    assert left_over(tmp_path) == []


async def test_a_full_disk_is_told_and_leaves_the_old_file(pool, hosts, small_disk):
    (small_disk / "file").write_text("old")
    with pytest.raises(DiskFull) as caught:
        await pool.put(hosts["web1"].endpoint(), b"x" * 1_000_000, str(small_disk / "file"))
    assert caught.value.file == str(small_disk / "file")
    assert caught.value.host == "web1"
    assert (small_disk / "file").read_text() == "old"
    assert left_over(small_disk) == []


async def test_a_link_lost_on_the_way_leaves_the_old_file(pool, hosts, tmp_path, until):
    place = tmp_path / "file"
    place.write_text("old")
    running = asyncio.ensure_future(pool.put(hosts["web1"].endpoint(), b"x" * 200_000_000, str(place)))
    await until(lambda: left_over(tmp_path))
    await hosts["web1"].drop()
    with pytest.raises(LinkLost):
        await running
    await until(lambda: not left_over(tmp_path))
    assert place.read_text() == "old"


@pytest.mark.sshd
async def test_root_writes_and_reads_through_sudo(pool, sshd, account, tmp_path):
    asked = account("/bin/sh", "{user} ALL=(ALL) ALL")
    endpoint = sshd.endpoint(user=asked.name, sudo=Sudo.PASSWORD, sudo_password=asked.password)
    tmp_path.chmod(0o700)
    place = tmp_path / "secret.conf"
    data = os.urandom(300_000)
    await pool.put(endpoint, data, str(place), mode=0o600, owner="root:root", sudo=True)
    assert place.read_bytes() == data
    assert (place.stat().st_uid, place.stat().st_mode & 0o777) == (0, 0o600)
    assert await pool.get(endpoint, str(place), sudo=True) == data
    with pytest.raises((NotFound, TransferFailed)):
        await pool.get(endpoint, str(place))
