"""The conversation with OpenVPN: what it hears, what it answers, what state that makes. No network here.

It never tries a refused password again, never gives one code twice, and gives up after three refused codes: only a
person's `up` begins anew.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from opsdeck.api import Sensitive
from opsdeck_vpn import management as wire
from opsdeck_vpn.models import State

REFUSALS = 3

_REASONS = (
    (
        re.compile(r"certificate has expired|certificate is not yet valid"),
        "the certificate has expired, or a clock is wrong",
    ),
    (
        re.compile(r"VERIFY (KU|EKU|X509NAME) ERROR|certificate verify failed"),
        "the server's certificate is not trusted",
    ),
    (re.compile(r"Cannot resolve host address: ([A-Za-z0-9._-]{1,80})"), "the server's name is not known"),
    (re.compile(r"TLS key negotiation failed|TLS handshake failed"), "the server does not answer the handshake"),
    (re.compile(r"Connection refused|No route to host|Network is unreachable"), "the server cannot be reached"),
    (
        re.compile(r"cannot negotiate|no common cipher|failed to negotiate cipher"),
        "no cipher in common with the server",
    ),
    (re.compile(r"Server poll timeout|Inactivity timeout"), "the server does not answer"),
)


@dataclass
class Login:
    """What is known for the server. `asks_code`: somebody or a seed gives codes; `concat` joins code to password.

    `key` is the passphrase of the private key.
    """

    username: str = ""
    password: Sensitive = field(default_factory=lambda: Sensitive(""))
    asks_code: bool = False
    concat: bool = False
    key: Sensitive = field(default_factory=lambda: Sensitive(""))


class Talk:
    """The state of one tunnel as the conversation shows it."""

    def __init__(
        self, login: Login, *, been_up: bool = False, ticket: str = "", challenge: str = "", refusals: int = 0
    ) -> None:
        self.login = login
        self.state = State.RECONNECTING if been_up else State.STARTING
        self.reason = ""
        self.challenge = challenge if ticket else ""
        self.local = ""
        self.received = self.sent = 0
        self.refusals = refusals
        self._need: wire.Need | None = None
        self._crv = ticket
        self._answered = False
        self._been_up = been_up
        self._given: set[str] = set()
        self._why, self._rank = "", 0

    @property
    def been_up(self) -> bool:
        """Tell whether it was connected before."""
        return self._been_up

    @property
    def ticket(self) -> str:
        """Give what the server wants back with the code, for whoever takes the conversation up."""
        return self._crv

    @property
    def wants_code(self) -> bool:
        """Tell whether a code is waited for."""
        return self.state is State.WAIT_OTP

    def hear(self, event: wire.Event) -> tuple[str, ...]:
        """Take an event; give the lines to send."""
        match event:
            case wire.Hold():
                return ("hold release",) if self.state is not State.FAILED else ()
            case wire.Need():
                return self._asked(event)
            case wire.Refused():
                self._refused(event)
            case wire.Entered():
                self._entered(event)
            case wire.Counted():
                self.received, self.sent = event.received, event.sent
            case wire.Said():
                self._said(event)
        return ()

    def give(self, code: str) -> tuple[str, ...]:
        """Give a code that was waited for; nothing happens for one that was given before."""
        if self._need is None or not self.wants_code or code in self._given:
            return ()
        self._given.add(code)
        password = self.login.password.reveal()
        if self._crv:
            answer = wire.dynamic_answer(self._crv, code)
        elif self._need.challenge and not (self.login.concat or self._need.concat):
            answer = wire.static_answer(password, code)
        else:
            answer = password + code
        self._crv = ""
        return self._answer(answer)

    def _asked(self, need: wire.Need) -> tuple[str, ...]:
        if self.state is State.FAILED:
            return ()
        if need.kind == "Private Key" and self.login.key:
            return (f'password "Private Key" {wire.quoted(self.login.key.reveal())}',)
        if need.kind != "Auth":
            self._fail(f"it asks for the password of the {need.kind!r}, which is not known")
            return ()
        self._need = need
        if self._crv or need.challenge or (self.login.asks_code and self.login.concat):
            self.state = State.WAIT_OTP
            self.challenge = self.challenge if self._crv else need.challenge or "One-time code"
            return ()
        if not self.login.username:
            self._fail("the server asks for a user name and password, and none is stored")
            return ()
        return self._answer(self.login.password.reveal())

    def _answer(self, password: str) -> tuple[str, ...]:
        self._answered = True
        self.challenge = ""
        self.state = State.RECONNECTING if self._been_up else State.STARTING
        self._need = None
        return (
            f'username "Auth" {wire.quoted(self.login.username)}',
            f'password "Auth" {wire.quoted(password)}',
        )

    def _refused(self, refused: wire.Refused) -> None:
        if refused.kind == "Private Key":
            self._fail("the passphrase of the private key is wrong")
            return
        if refused.state:
            self._crv, self.challenge = refused.state, refused.challenge or "One-time code"
            self._answered = False
            return
        if not self._answered:  # a token of an earlier login ran out: it asks anew
            return
        self._answered = False
        if not self.login.asks_code and not self._given:
            self._fail("the server refused the user name or password")
            return
        self.refusals += 1
        self.reason = f"the server refused the code ({self.refusals} of {REFUSALS})"
        if self.refusals >= REFUSALS:
            self._fail(f"the server refused {REFUSALS} codes; none is tried any more")

    def _fail(self, why: str) -> None:
        self.state, self.reason, self.challenge = State.FAILED, why, ""

    def _entered(self, entered: wire.Entered) -> None:
        if self.state is State.FAILED:
            return
        match entered.name:
            case "CONNECTED":
                self._been_up, self._answered = True, False
                self.refusals, self._why = 0, ""
                wrong = entered.detail not in ("SUCCESS", "")
                self.state = State.DEGRADED if wrong else State.UP
                self.reason = f"connected with errors ({entered.detail})" if wrong else ""
                self.local = entered.local
            case "RECONNECTING" | "EXITING":
                if not self.wants_code:
                    self.state = State.RECONNECTING
                    detail = entered.detail.replace("-", " ")
                    self.reason = self._why or (self.reason if "refused" in self.reason else "") or detail
            case _:
                if entered.name == "WAIT":
                    self._why = ""
                if self.state in (State.UP, State.DEGRADED):
                    self.state = State.RECONNECTING

    def _said(self, said: wire.Said) -> None:
        for rank, (pattern, words) in enumerate(_REASONS):
            if pattern.search(said.text):
                if not self._why or rank < self._rank:  # the cause comes first, what follows from it later
                    self._why, self._rank = words, rank
                if self.state in (State.STARTING, State.RECONNECTING):
                    self.reason = self._why
                return
        if said.fatal:
            self._why = self.reason = said.text
