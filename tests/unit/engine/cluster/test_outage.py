"""Outages of Valkey: every error has a readable reason, and an outage is two log lines however many commands fail."""

from __future__ import annotations

import errno
import logging
import socket
import ssl

import pytest
from valkey import exceptions

from insightdesk_rt.engine.cluster import outage
from insightdesk_rt.engine.cluster.outage import UNKNOWN, Refusals, in_words


def caused(cause: Exception) -> Exception:
    """Return an error as valkey-py raises it: its own error, caused by one of the system."""
    try:
        try:
            raise cause
        except Exception:
            raise exceptions.ConnectionError("Error connecting to user:hunter2@host")  # noqa: B904
    except exceptions.ConnectionError as error:
        return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), "it is full"),
        (exceptions.ReadOnlyError("You can't write against a read only replica."), "read-only replica"),
        (exceptions.ResponseError("MISCONF Errors writing to the AOF file"), "cannot save them to its disk"),
        (exceptions.ResponseError("NOREPLICAS Not enough good replicas to write."), "too few replicas"),
        (exceptions.ResponseError("CLUSTERDOWN Hash slot not served"), "cluster is down"),
        (exceptions.BusyLoadingError("the dataset"), "loading"),
        (exceptions.AuthenticationError("invalid username-password pair or user is disabled."), "password is wrong"),
        (exceptions.ConnectionError("invalid username-password pair or user is disabled."), "password is wrong"),
        (exceptions.AuthenticationError("Authentication required."), "wants a password"),
        (exceptions.NoPermissionError("User x has no permissions to run the 'set' command"), "lacks a permission"),
        (exceptions.InvalidResponse("Protocol Error: b'HTTP/1.1'"), "not a Valkey"),
        (exceptions.ConnectionError("Connection closed by server."), "closed the connection"),
        (exceptions.TimeoutError("Timeout connecting to server"), "no answer in time"),
        (caused(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")), "nothing listens"),
        (caused(FileNotFoundError(errno.ENOENT, "No such file")), "no such socket"),
        (caused(PermissionError(errno.EACCES, "Permission denied")), "may not open"),
        (caused(socket.gaierror(-2, "Name or service not known")), "host name is not known"),
        (caused(OSError(errno.EHOSTUNREACH, "No route to host")), "no route to host"),
        (caused(ssl.SSLError(1, "WRONG_VERSION_NUMBER")), "TLS failed"),
        (TimeoutError(), "no answer in time"),
        (exceptions.ResponseError("ERR something about hunter2"), UNKNOWN),
        (exceptions.ConnectionError("what nobody has seen: hunter2"), UNKNOWN),
    ],
    ids=str,
)
def test_every_error_has_a_readable_reason(error: Exception, words: str) -> None:
    said = in_words(error)
    assert words in said
    assert "hunter2" not in said and type(error).__name__ not in said


def test_an_outage_is_logged_in_two_lines_however_many_commands_fail(caplog: pytest.LogCaptureFixture) -> None:
    """The first has the reason, the second the number of refused commands. Successful reads do not end the outage."""
    caplog.set_level(logging.INFO)
    now_s = 0.0
    full = exceptions.OutOfMemoryError("command not allowed")
    refusals = Refusals(lambda: now_s)
    for _ in range(1000):
        now_s += 0.01
        refusals.refused("ticket_change", full)
        refusals.served("GET")
    assert refusals.why.startswith("it is full")
    assert [record.message for record in caplog.records] == ["valkey cannot serve"]
    refusals.served("ticket_change")
    assert refusals.why, "at the memory limit some commands succeed: one success does not end the outage"
    now_s += outage.QUIET_S
    refusals.served("GET")
    assert refusals.why
    refusals.served("ticket_change")
    refusals.served("ticket_change")
    assert refusals.why == ""
    _, end = caplog.records
    assert (end.message, vars(end)["refused"], vars(end)["seconds"]) == ("valkey serves again", 1000, 10.0)
    refusals.refused("ticket_change", full)
    assert len(caplog.records) == 3, "the next outage is logged again"


def test_an_outage_that_hit_only_a_rare_command_ends_when_readiness_can_write() -> None:
    """A node asks for the end of a log only after a connect; a cluster that was down then refused just that."""
    now_s = 0.0
    refusals = Refusals(lambda: now_s)
    refusals.refused("open", exceptions.ResponseError("CLUSTERDOWN The cluster is down"))
    refusals.served("SET", wrote=True)
    assert refusals.why, "at a limit some commands succeed"
    now_s += outage.QUIET_S
    refusals.served("SET", wrote=True)
    assert refusals.why == ""


def test_a_new_reason_during_an_outage_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals(lambda: 0.0)
    for error in ("MISCONF disk", "MISCONF disk", "NOREPLICAS none"):
        refusals.refused("SET", exceptions.ResponseError(error))
    assert [vars(record)["said"] for record in caplog.records] == ["MISCONF disk", "NOREPLICAS none"]
