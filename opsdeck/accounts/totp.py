"""Second factor: time-based codes (RFC 6238, 30 s, 6 digits), each good once."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass

import pyotp

from opsdeck.accounts.models import User
from opsdeck.errors import Invalid, Refused, Unavailable
from opsdeck.secrets.keyring import Keyring
from opsdeck.secrets.sensitive import Sensitive

PERIOD = 30
AROUND = 1
"""How many steps before and after the present one are taken, for clocks that differ."""

ENROL_SECONDS = 900


@dataclass(frozen=True)
class Enrolment:
    """A seed that waits for its first code; `ticket` carries it through the form, sealed, and nothing is kept."""

    seed: Sensitive
    uri: Sensitive
    """`otpauth://…` for the picture that the app scans."""
    ticket: str


def enrol(keyring: Keyring, user: User) -> Enrolment:
    """Make a seed for a person."""
    seed = pyotp.random_base32()
    uri = pyotp.TOTP(seed).provisioning_uri(name=user.name, issuer_name="OpsDeck")
    data = json.dumps({"seed": seed, "until": time.time() + ENROL_SECONDS}).encode()
    ticket = base64.urlsafe_b64encode(keyring.seal(data, _pending(user))).decode()
    return Enrolment(Sensitive(seed), Sensitive(uri), ticket)


def confirm(keyring: Keyring, user: User, ticket: str, code: str) -> tuple[bytes, int]:
    """Check the first code of an enrolment; give the sealed seed and the code's step, to be kept.

    Raises `Invalid` for a wrong code and for a ticket that is too old or another person's.
    """
    try:
        data = json.loads(keyring.unseal(base64.urlsafe_b64decode(ticket.encode()), _pending(user)))
        if data["until"] < time.time():
            raise ValueError
    except (ValueError, Unavailable) as fault:
        raise Invalid("this enrolment is over.", field="ticket", hint="begin again with a new picture") from fault
    step = matching_step(data["seed"], code)
    if step is None:
        raise Invalid("the code is wrong.", field="code", hint="type the newest code; check the clocks of both")
    return keyring.seal(data["seed"].encode(), place(user.id)), step


def step_of(keyring: Keyring, user: User, code: str) -> int:
    """Give the time step of a right code that is newer than the last one taken. Raises `Refused`."""
    if user.totp_blob is None:
        raise Refused(f"{user.name} has no second factor.", field="code")
    step = matching_step(keyring.unseal(user.totp_blob, place(user.id)).decode(), code)
    if step is None or step <= user.totp_last:
        raise Refused("the code is wrong or was used.", field="code", hint="wait for the next code")
    return step


def matching_step(seed: str, code: str) -> int | None:
    """Give the step whose code this is, among the present one and its neighbours."""
    digits = code.replace(" ", "")
    if len(digits) != 6 or not digits.isascii() or not digits.isdigit():
        return None
    totp = pyotp.TOTP(seed)
    now = int(time.time()) // PERIOD
    matches = [step for step in range(now - AROUND, now + AROUND + 1) if totp.verify(digits, for_time=step * PERIOD)]
    return matches[-1] if matches else None


def place(user_id: int | None) -> str:
    """Give what a person's sealed seed is bound to."""
    return f"core_user:{user_id}:totp"


def _pending(user: User) -> str:
    return f"core_user:{user.id}:totp-enrolment"
