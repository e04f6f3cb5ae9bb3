"""The tables of errors and close reasons decide what clients receive."""

from insightdesk_rt.engine.errors import ERRORS, CloseReason, RtError, TooBig, WireError


def test_an_error_has_its_fields_beside_code_and_message() -> None:
    error = RtError("RATE_LIMITED", "Too many.", retryAfter=3)
    assert error.as_dict() == {"code": "RATE_LIMITED", "message": "Too many.", "retryAfter": 3}
    assert RtError("FORBIDDEN").as_dict()["message"]


def test_auth_failures_close_with_4401_and_forbidden_with_4403() -> None:
    assert {ERRORS[code].close for code in ERRORS if code.startswith("AUTH_")} == {4401}
    assert ERRORS["FORBIDDEN"].close == 4403


def test_only_unavailable_and_overload_errors_may_be_retried() -> None:
    assert {code for code, kind in ERRORS.items() if kind.retry} == {
        "TOO_MANY_CONNECTIONS",
        "RATE_LIMITED",
        "INTERNAL",
        "UNAVAILABLE",
        "DRAINING",
    }


def test_a_session_ended_on_purpose_cannot_be_resumed() -> None:
    assert CloseReason.TRANSPORT_CLOSE.may_resume
    assert CloseReason.SHUTDOWN.may_resume
    assert CloseReason.SLOW_CONSUMER.may_resume
    assert CloseReason.REPLACED.may_resume, "the client has resumed another namespace and will claim this one"
    assert not CloseReason.KICKED.may_resume
    assert not CloseReason.CLIENT_LEFT.may_resume


def test_close_codes_say_whether_to_reconnect() -> None:
    """43xx and 1012: reconnect. 44xx: do not reconnect with this token."""
    for why in CloseReason:
        if 4400 <= why.close_code < 4500:
            assert why in {
                CloseReason.CONNECT_TIMEOUT,
                CloseReason.CONNECT_FLOOD,
                CloseReason.TOKEN_EXPIRED,
                CloseReason.REVOKED,
                CloseReason.KICKED,
                CloseReason.BLOCKED,
            }
    assert WireError("x").close == 1002
    assert TooBig("x").close == 1009
    assert WireError("x", 1007).close == 1007
