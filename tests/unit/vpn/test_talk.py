"""The conversation with OpenVPN: answers, states, and never hammering."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opsdeck_vpn import management as wire
from opsdeck_vpn.models import State
from opsdeck_vpn.talk import Login, Talk

from opsdeck.errors import Invalid
from opsdeck.secrets.sensitive import Sensitive


def talk(**login: object) -> Talk:
    return Talk(Login("alice", Sensitive('pass"word\\'), **login))  # type: ignore[arg-type]


def hear(one: Talk, *lines: str) -> list[str]:
    said: list[str] = []
    for line in lines:
        event = wire.parse(line)
        if event is not None:
            said += one.hear(event)
    return said


def test_a_password_is_given_once_and_a_refusal_ends_it() -> None:
    one = talk()
    assert hear(one, ">HOLD:Waiting for hold release:0") == ["hold release"]
    assert hear(one, ">PASSWORD:Need 'Auth' username/password") == [
        'username "Auth" "alice"',
        'password "Auth" "pass\\"word\\\\"',
    ]
    assert (
        hear(one, ">PASSWORD:Verification Failed: 'Auth'", ">HOLD:Waiting", ">PASSWORD:Need 'Auth' username/password")
        == []
    )
    assert one.state is State.FAILED


def test_a_static_challenge_waits_for_a_code_and_takes_it_once() -> None:
    one = talk()
    assert hear(one, ">PASSWORD:Need 'Auth' username/password SC:1,Enter, please: OTP") == []
    assert (one.state, one.challenge) == (State.WAIT_OTP, "Enter, please: OTP")
    _user, answer = one.give("123456")
    secret = answer.split('"')[3].split(":")
    assert [base64.b64decode(part) for part in secret[1:]] == [b'pass"word\\', b"123456"]
    assert secret[0] == "SCRV1"
    hear(one, ">PASSWORD:Verification Failed: 'Auth'", ">PASSWORD:Need 'Auth' username/password SC:1,Enter OTP")
    assert "1 of 3" in one.reason
    assert one.give("123456") == ()
    assert one.give("000000") != ()


def test_three_refused_codes_are_enough() -> None:
    one = talk()
    for code in ("1", "2", "3"):
        hear(one, ">PASSWORD:Need 'Auth' username/password SC:0,OTP")
        assert one.give(code)
        hear(one, ">PASSWORD:Verification Failed: 'Auth'")
    assert one.state is State.FAILED
    assert hear(one, ">PASSWORD:Need 'Auth' username/password SC:0,OTP") == []
    assert one.give("4") == ()


def test_whoever_takes_the_conversation_up_counts_on() -> None:
    one = Talk(talk().login, refusals=2)
    hear(one, ">PASSWORD:Need 'Auth' username/password SC:0,OTP")
    assert one.give("3")
    hear(one, ">PASSWORD:Verification Failed: 'Auth'")
    assert (one.state, one.refusals) == (State.FAILED, 3)
    two = Talk(talk().login, refusals=2)
    hear(two, ">STATE:1,CONNECTED,SUCCESS,10.8.0.2,1.2.3.4,1194,,")
    assert two.refusals == 0


def test_a_dynamic_challenge_is_answered_with_its_state() -> None:
    one = talk()
    hear(one, ">PASSWORD:Need 'Auth' username/password")
    crv = ">PASSWORD:Verification Failed: 'Auth' ['CRV1:R,E:Om01u7Fh4LrG:Y3Ix:Please enter token: PIN']"
    hear(one, crv, ">PASSWORD:Need 'Auth' username/password")
    assert (one.state, one.challenge) == (State.WAIT_OTP, "Please enter token: PIN")
    other = Talk(one.login, ticket=one.ticket, challenge=one.challenge)
    assert one.give("99")[1] == 'password "Auth" "CRV1::Om01u7Fh4LrG::99"'
    # Whoever takes the conversation up is asked again by OpenVPN, and does not spend the password once more.
    assert hear(other, ">PASSWORD:Need 'Auth' username/password") == []
    assert (other.state, other.challenge) == (State.WAIT_OTP, "Please enter token: PIN")
    assert other.give("98")[1] == 'password "Auth" "CRV1::Om01u7Fh4LrG::98"'


def test_password_and_code_as_one_word() -> None:
    one = talk(asks_code=True, concat=True)
    hear(one, ">PASSWORD:Need 'Auth' username/password")
    assert one.state is State.WAIT_OTP
    assert one.give("77")[1].endswith('\\\\77"')
    two = talk()
    hear(two, ">PASSWORD:Need 'Auth' username/password SC:3,OTP")
    assert two.give("77")[1].endswith('\\\\77"')


def test_a_locked_key_is_opened_once_and_a_wrong_passphrase_ends_it() -> None:
    one = talk(key=Sensitive("lock"))
    ask = ">PASSWORD:Need 'Private Key' password"
    assert hear(one, ask) == ['password "Private Key" "lock"']
    assert hear(one, ">PASSWORD:Verification Failed: 'Private Key'", ask) == []
    assert one.state is State.FAILED
    assert "passphrase" in one.reason
    none = talk()
    assert hear(none, ask) == []
    assert none.state is State.FAILED


def test_a_token_that_ran_out_is_no_refusal() -> None:
    one = talk()
    hear(one, ">PASSWORD:Need 'Auth' username/password", ">STATE:1,CONNECTED,SUCCESS,10.8.0.2,1.2.3.4,1194,,")
    assert one.state is State.UP
    hear(one, ">STATE:2,RECONNECTING,ping-restart,,,,,", ">PASSWORD:Verification Failed: 'Auth'")
    assert one.state is State.RECONNECTING
    assert len(hear(one, ">PASSWORD:Need 'Auth' username/password")) == 2


def test_states_and_their_reasons() -> None:
    one = talk()
    hear(one, ">STATE:1,WAIT,,,,,,", ">LOG:1,N,VERIFY ERROR: depth=0, error=certificate has expired: CN=x")
    hear(one, ">LOG:1,N,TLS Error: TLS handshake failed", ">STATE:1,RECONNECTING,tls-error,,,,,")
    assert "certificate has expired" in one.reason
    hear(one, ">STATE:1,WAIT,,,,,,", ">STATE:1,CONNECTED,ROUTE_ERROR,10.8.0.2,,,,")
    assert (one.state, one.local) == (State.DEGRADED, "10.8.0.2")
    hear(one, ">BYTECOUNT:12,34")
    assert (one.received, one.sent) == (12, 34)


@given(st.text(max_size=200) | st.sampled_from(["PASSWORD:", "STATE:", "BYTECOUNT:", "LOG:"]).flatmap(
    lambda head: st.text(max_size=100).map(lambda rest: f">{head}{rest}")))  # fmt: skip
def test_nothing_that_a_server_says_breaks_it(line: str) -> None:
    one = talk()
    event = wire.parse(line)
    if event is not None:
        assert all("\n" not in answer for answer in one.hear(event))
    assert one.reason.isprintable()
    assert one.challenge.isprintable()


def test_what_no_line_can_hold_is_refused() -> None:
    with pytest.raises(Invalid):
        wire.quoted("a\nsignal SIGTERM")
