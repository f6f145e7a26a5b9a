"""People: who may log in, with which role; and the ways in, kept in rooms of their own beside this file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlmodel import col, func, select
from sqlmodel.ext.asyncio.session import AsyncSession

from opsdeck.accounts import permissions, totp
from opsdeck.accounts.limits import Limits
from opsdeck.accounts.login import LINK_TTL, Login
from opsdeck.accounts.models import User
from opsdeck.accounts.passwords import Passwords
from opsdeck.accounts.permissions import require
from opsdeck.accounts.sessions import Sessions, end_logins
from opsdeck.accounts.tokens import Tokens
from opsdeck.accounts.totp import Enrolment
from opsdeck.actor import Actor, Door, Role
from opsdeck.audit.log import AuditLog
from opsdeck.clock import utcnow
from opsdeck.db import Database
from opsdeck.errors import Conflict, Invalid, NotFound, Refused
from opsdeck.manifest import Action
from opsdeck.secrets.keyring import Keyring
from opsdeck.secrets.sensitive import Sensitive

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}\Z")


@dataclass(frozen=True)
class Person:
    """Someone who may log in, without what proves them."""

    id: int
    name: str
    role: Role
    disabled: bool
    totp: bool
    created: datetime
    password_changed: datetime
    last_login: datetime | None


class Accounts:
    """The people of this installation."""

    def __init__(self, db: Database, keyring: Keyring, audit: AuditLog) -> None:
        self._db = db
        self._keyring = keyring
        self._audit = audit
        self._passwords = Passwords()
        self.limits = Limits(db)
        self.sessions = Sessions(db)
        self.tokens = Tokens(db, keyring, audit, self.limits)
        self.login = Login(db, keyring, audit, self.limits, self._passwords)

    def authorise(self, actor: Actor, action: Action, plugin: str = "") -> None:
        """Let `actor` run an action; see `permissions.authorise`."""
        permissions.authorise(actor, action, plugin)

    async def authenticate(self, name: str, password: Sensitive | str, code: str, source: str) -> User:
        """Log a person in; see `Login.authenticate`."""
        return await self.login.authenticate(name, _hidden(password), code, source)

    async def prove(self, name: str, *, password: Sensitive | str = "", code: str = "", source: str) -> User:
        """Have a person who is logged in prove again who they are; see `Login.prove`."""
        return await self.login.prove(name, password=_hidden(password), code=code, source=source)

    async def authenticate_token(self, text: str, source: str) -> Actor:
        """Give who a token stands for; see `Tokens.authenticate`."""
        return await self.tokens.authenticate(text, source)

    async def make_login_link(self, name: str, actor: Actor, ttl: timedelta = LINK_TTL) -> Sensitive:
        """Make a one-time login link's secret; see `Login.make_link`."""
        return await self.login.make_link(name, ttl, actor)

    async def use_login_link(self, token: str, source: str) -> User:
        """Log in by a one-time link; see `Login.redeem_link`."""
        return await self.login.redeem_link(token, source)

    async def count(self) -> int:
        """Give how many people there are."""
        async with self._db.read() as session:
            return (await session.exec(select(func.count()).select_from(User))).one()

    async def list(self) -> tuple[Person, ...]:
        """Give everybody, by name."""
        async with self._db.read() as session:
            return tuple(_person(user) for user in (await session.exec(select(User).order_by(User.name))).all())

    async def get(self, name: str) -> User:
        """Give one person's row. Raises `NotFound`."""
        async with self._db.read() as session:
            return await _get(session, name, lock=False)

    async def create(self, name: str, password: Sensitive, role: Role, actor: Actor) -> Person:
        """Add a person. Raises `Invalid`, `Conflict`, `Refused`."""
        require(actor, Role.ADMIN, "add people")
        if not _NAME.match(name):
            raise Invalid(
                f"{name[:80]!r} cannot name a person.",
                field="name",
                hint="small letters, digits and . _ -, beginning with a letter or digit, at most 63",
            )
        _not_the_name(name, password)
        kept = await self._passwords.hash(password)
        async with self._db.write() as session:
            if (await session.exec(select(User.id).where(User.name == name))).first() is not None:
                raise Conflict(f"{name} exists.", field="name", hint="`opsdeck user passwd` sets a new password")
            user = User(name=name, role=role.value, password_hash=kept)
            session.add(user)
            await session.flush()
            person = _person(user)
            await self._audit.append(session, actor, "user.added", f"user:{name}", detail={"role": role.value})
        return person

    async def set_role(self, name: str, role: Role, actor: Actor) -> None:
        """Give a person another role; their logins end. The last admin stays one (`Conflict`)."""
        require(actor, Role.ADMIN, "change roles")
        async with self._db.write() as session:
            user = await _get(session, name)
            if user.role == role.value:
                return
            if role is not Role.ADMIN:
                await _keep_an_admin(session, user)
            before, user.role = user.role, role.value
            session.add(user)
            await end_logins(session, user.id)
            await self._audit.append(
                session, actor, "user.role_changed", f"user:{name}", before={"role": before}, after={"role": user.role}
            )

    async def set_disabled(self, name: str, disabled: bool, actor: Actor) -> None:
        """Shut a person out, tokens too, or let them in again. The last admin stays in (`Conflict`)."""
        require(actor, Role.ADMIN, "disable or enable people")
        async with self._db.write() as session:
            user = await _get(session, name)
            if user.disabled == disabled:
                return
            if disabled:
                await _keep_an_admin(session, user)
                await end_logins(session, user.id)
            user.disabled = disabled
            session.add(user)
            await session.flush()
            verb = "user.disabled" if disabled else "user.enabled"
            await self._audit.append(session, actor, verb, f"user:{name}")

    async def set_password(self, name: str, password: Sensitive, actor: Actor, *, keep: str | None = None) -> None:
        """Set a password: one's own (the caller has had the old one proven), or anybody's as admin.

        All logins end but `keep`.
        """
        require(actor, Role.VIEWER if actor.name == name else Role.ADMIN, "set passwords of others")
        _not_the_name(name, password)
        kept = await self._passwords.hash(password)
        async with self._db.write() as session:
            user = await _get(session, name)
            user.password_hash, user.password_changed = kept, utcnow()
            session.add(user)
            await end_logins(session, user.id, keep=keep)
            await self._audit.append(session, actor, "user.password_changed", f"user:{name}")

    async def remove(self, name: str, actor: Actor) -> None:
        """Remove a person with their logins and tokens; the audit trail keeps their name."""
        require(actor, Role.ADMIN, "remove people")
        async with self._db.write() as session:
            user = await _get(session, name)
            await _keep_an_admin(session, user)
            await session.delete(user)
            await session.flush()
            await self._audit.append(session, actor, "user.removed", f"user:{name}", before={"role": user.role})

    async def enrol_totp(self, name: str, actor: Actor) -> Enrolment:
        """Begin a second factor for oneself after a fresh proof; nothing is kept until `confirm_totp`.

        Whoever finds a login open must not make themselves the means of every later proof.
        """
        _oneself(actor, name)
        if not actor.stepped_up:
            raise permissions.StepUpNeeded(
                "to set up a second factor, prove again who you are.", field="proof", hint="give your password"
            )
        return totp.enrol(self._keyring, await self.get(name))

    async def confirm_totp(self, name: str, ticket: str, code: str, actor: Actor) -> None:
        """Turn the second factor on with its first code. Raises `Invalid`."""
        _oneself(actor, name)
        async with self._db.write() as session:
            user = await _get(session, name)
            user.totp_blob, user.totp_last = totp.confirm(self._keyring, user, ticket, code)
            session.add(user)
            await session.flush()
            await self._audit.append(session, actor, "user.totp_enabled", f"user:{name}")

    async def remove_totp(self, name: str, actor: Actor) -> None:
        """Turn the second factor off: one's own after a fresh proof, or anybody's as admin."""
        require(actor, Role.VIEWER if actor.name == name else Role.ADMIN, "turn off the second factor of others")
        if not actor.stepped_up:
            raise permissions.StepUpNeeded("to turn off a second factor, prove again who you are.")
        async with self._db.write() as session:
            user = await _get(session, name)
            if user.totp_blob is None:
                return
            user.totp_blob = None
            session.add(user)
            await session.flush()
            await self._audit.append(session, actor, "user.totp_disabled", f"user:{name}")

    async def prune(self) -> None:
        """Forget sessions that are over and old failed attempts; for the daily housekeeping."""
        await self.sessions.prune()
        await self.limits.prune()


async def _get(session: AsyncSession, name: str, *, lock: bool = True) -> User:
    query = select(User).where(User.name == name)
    user = (await session.exec(query.with_for_update() if lock else query)).first()
    if user is None:
        raise NotFound(f"nobody is called {name!r}.", field="name", hint="`opsdeck user list` names people")
    return user


async def _keep_an_admin(session: AsyncSession, user: User) -> None:
    """Raise `Conflict` if `user` is the last admin who can log in."""
    admins = await session.exec(
        select(User)
        .where(User.role == Role.ADMIN.value, col(User.disabled).is_(False))
        .order_by(col(User.id))
        .with_for_update()
    )
    if {admin.id for admin in admins.all()} == {user.id}:
        raise Conflict(f"{user.name} is the last admin.", field="name", hint="make another admin first")


def _not_the_name(name: str, password: Sensitive) -> None:
    if len(name) > 3 and name in password.reveal().lower():
        raise Invalid("the password has the name in it.", field="password", hint="choose another password")


def _hidden(password: Sensitive | str) -> Sensitive:
    return password if isinstance(password, Sensitive) else Sensitive(password)


def _oneself(actor: Actor, name: str) -> None:
    require(actor, Role.VIEWER, "set up a second factor")
    if actor.name != name and not (actor.door is Door.CLI and actor.role is Role.ADMIN):
        raise Refused("a second factor is set up by its owner, who holds the app.", hint=f"log in as {name}")


def _person(user: User) -> Person:
    assert user.id is not None  # noqa: S101 - it comes from the database
    return Person(
        user.id,
        user.name,
        Role(user.role),
        user.disabled,
        user.totp_blob is not None,
        user.created,
        user.password_changed,
        user.last_login,
    )
