"""A call of the admin port: any HTTP status is an answer, and any other failure is one line."""

from __future__ import annotations

import socket
import threading

import pytest

from insightdesk_rt.app.cli.remote import NoAnswer, call, reason
from tests.support.answering import answering


def failure(url: str) -> str:
    with pytest.raises(NoAnswer) as caught:
        call(url)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_answer_consists_of_a_status_and_an_object() -> None:
    with answering() as port:
        url = f"http://127.0.0.1:{port.port}"
        for status, body, found in [
            (200, b'{"a":1}', {"a": 1}),
            (503, b"[1]", {}),
            (404, b"<html>", {}),
            (500, b"", {}),
        ]:
            port.status, port.answer = status, body
            assert call(url + "/x") == (status, found)
        assert port.asked[0] == ("GET", "/x", None, "")
        call(url + "/y", '{"b":"ö"}', "k3y")
        assert port.asked[-1] == ("POST", "/y", {"b": "ö"}, "Bearer k3y")


def test_a_redirect_is_not_followed_because_it_would_get_the_token() -> None:
    with answering() as port:
        port.status = 302
        assert call(f"http://127.0.0.1:{port.port}/", "{}", "k3y")[0] == 302
        assert len(port.asked) == 1


def test_a_refused_connection_is_an_error_of_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}/"
    assert failure(url).startswith(f"no server answers at {url}: ") and failure(url).endswith("Connection refused")
    for wrong in ("ftp://x", "127.0.0.1", "http://[", "http://127.0.0.1:1/\n", "http://127.0.0.1:x/"):
        failure(wrong)


def test_a_server_that_does_not_speak_http_is_reported_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            connection = other.accept()[0]
            connection.recv(1000)
            connection.sendall(b"-ERR unknown command\r\n")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        assert failure(f"http://127.0.0.1:{other.getsockname()[1]}/").startswith("no answer from http://127.0.0.1:")
        thread.join(5)


def test_a_refusal_is_described_in_one_line() -> None:
    assert reason(403, {"error": {"code": "FORBIDDEN", "message": "No."}}) == "FORBIDDEN: No."
    assert (
        reason(400, {"error": {"code": "BAD_REQUEST", "message": "No.", "field": "room"}}) == "BAD_REQUEST: No. (room)"
    )
    assert reason(502, {}) == reason(502, {"error": "x"}) == "HTTP 502"


def test_an_answer_without_a_field_is_not_from_this_server() -> None:
    with answering() as port:
        port.status, port.answer = 200, b"{}"
        answer = call(f"http://127.0.0.1:{port.port}/")[1]
        with pytest.raises(NoAnswer, match=r"not from this server.*items is missing"):
            answer["items"]
        assert answer.get("items") is None
