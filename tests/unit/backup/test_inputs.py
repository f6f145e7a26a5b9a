"""What a person can get wrong, and what is kept out of sight."""

from __future__ import annotations

import pytest
from opsdeck_backup import keys, manifests, stores, targets
from pydantic import ValidationError

from opsdeck.errors import Invalid
from opsdeck.secrets.sensitive import Sensitive

GOOD = {"name": "shop", "host": "db", "remote": "store:backups", "store_secret": "s3", "key_secret": "key"}


@pytest.mark.parametrize(
    "text", ["", "hello", "[store]\n", "type = s3\n", "[store]\nregion = x\n", "[a]\ntype = s3\n[b]\n"]
)
def test_what_is_no_configuration_of_rclone_is_refused(text):
    with pytest.raises(Invalid):
        stores.check_config(text)


def test_a_configuration_of_rclone_passes():
    stores.check_config("[store]\ntype = s3\nprovider = AWS\n\n[crypt]\ntype = crypt\nremote = store:x\n")


@pytest.mark.parametrize(
    "remote", ["", "/etc", "--config:x", "store:../x", ":s3:x", "store", "a\nb:c", "store:a/../../b"]
)
def test_what_is_no_place_in_a_store_is_refused(remote):
    with pytest.raises(ValidationError):
        targets.TargetParams(**GOOD | {"remote": remote})


@pytest.mark.parametrize(
    "wrong",
    [{"name": "Shop"}, {"name": "a/b"}, {"limit": "10MB/s"}, {"level": 20}, {"rpo_minutes": 0}, {"engine": "oracle"},
     {"unit": "a b"}, {"unit": "-x"}, {"keep_chains": 0}, {"more": 1}],
)  # fmt: skip
def test_a_wrong_field_is_named(wrong):
    with pytest.raises(ValidationError) as caught:
        targets.TargetParams(**GOOD | wrong)
    assert next(iter(wrong)) in str(caught.value)


def test_a_private_key_among_the_recipients_is_refused_and_not_repeated():
    identity, public = keys.new_identity()
    private = keys._SECRET.search(identity.reveal())
    assert private is not None
    with pytest.raises(Invalid) as caught:
        keys.check_recipients([public, private[0]])
    assert private[0] not in str(caught.value)


def test_a_key_knows_its_recipient_and_a_damaged_one_is_refused():
    identity, public = keys.new_identity()
    assert keys.public_of(identity) == (public,)
    with pytest.raises(Invalid):
        keys.public_of(Sensitive(identity.reveal().replace("AGE-SECRET-KEY-1Q", "AGE-SECRET-KEY-1P")[:-5]))
    with pytest.raises(Invalid):
        keys.check_identity("just text")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"planned": {}}', "\x00", '{"planned": {"id": "../../etc"}, "result": {}}']
)
def test_a_broken_manifest_is_named(text):
    with pytest.raises(Invalid, match=r"manifests/x\.json"):
        manifests.read(text, file="manifests/x.json")
