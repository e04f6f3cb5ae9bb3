"""The model answers as the real server does: the same commands and scripts go to both, and every reply is compared."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from importlib import resources
from typing import Any
from unittest.mock import patch

import pytest
import valkey
from hypothesis import given, settings
from hypothesis import strategies as st

from insightdesk_rt.engine.cluster.resp import load_script
from tests.simulation import schedule
from tests.simulation.model_scripts import Scripts
from tests.simulation.model_server import ModelServer
from tests.simulation.model_store import COMMANDS, ModelStore, Reply, ReplyError
from tests.support.own_valkey import OwnValkey

KEYS = (b"{m}:a", b"{m}:b")
NAMES = (b"x", b"y", b"z")
PACKAGE = "insightdesk_rt.engine.cluster"
SCRIPTS = Scripts()


@pytest.fixture(scope="module")
def real() -> Iterator[valkey.Valkey]:
    with OwnValkey() as server:
        client = valkey.Valkey(unix_socket_path=str(server.socket))
        yield client
        client.close()


def model() -> ModelServer:
    return ModelServer("m", lambda: int(time.time() * 1000), SCRIPTS)


def asked(client: valkey.Valkey, args: tuple[bytes, ...]) -> Any:
    """Return the real server's reply as it came, without valkey-py's conversions."""
    connection = client.connection_pool.get_connection(args[0].decode())
    try:
        connection.send_command(*args)
        return connection.read_response()
    except valkey.ResponseError as refused:
        return f"error {str(refused)[:9]}"
    finally:
        client.connection_pool.release(connection)


def modelled(server: ModelServer, args: tuple[bytes, ...]) -> Reply:
    try:
        return server.reply(args)
    except ReplyError as refused:
        text = str(refused)
        return f"error {text.removeprefix('ERR ')[:9]}"


key, name = st.sampled_from(KEYS), st.sampled_from(NAMES)
small = st.integers(-3, 5).map(lambda n: b"%d" % n)
score = st.integers(0, 9).map(lambda n: b"%d" % n)
bound = st.one_of(score, score.map(lambda text: b"(" + text), st.sampled_from((b"-inf", b"+inf")))
stream_id = st.tuples(st.integers(1, 6), st.integers(0, 2)).map(lambda id: b"%d-%d" % id)
low = st.one_of(stream_id, stream_id.map(lambda text: b"(" + text), st.just(b"-"))
high = st.one_of(stream_id, st.just(b"+"))


def call(text: str, *parts: Any) -> st.SearchStrategy[tuple[bytes, ...]]:
    words = [st.just(word.encode()) for word in text.split()]
    return st.tuples(words[0], *parts) if len(words) == 1 else st.tuples(words[0], *parts, *words[1:])


CALLS = st.one_of(
    call("DEL", key),
    call("EXISTS", key),
    call("PERSIST", key),
    call("TTL", key),
    call("EXPIRE", key, st.just(b"100")),
    call("PEXPIRE", key, st.just(b"100000")),
    call("GET", key),
    call("SET", key, name),
    call("SET NX", key, name),
    call("INCRBY", key, small),
    call("DECRBY", key, small),
    call("HSET", key, name, score),
    call("HSET", key, name, score, name, score),
    call("HSETNX", key, name, score),
    call("HGET", key, name),
    call("HMGET", key, name, name),
    call("HGETALL", key),
    call("HKEYS", key),
    call("HVALS", key),
    call("HLEN", key),
    call("HEXISTS", key, name),
    call("HDEL", key, name),
    call("HINCRBY", key, name, small),
    call("LPUSH", key, name),
    call("RPUSH", key, name, name),
    call("LPOP", key),
    call("LRANGE", key, small, small),
    call("LINDEX", key, small),
    call("LTRIM", key, small, small),
    call("SADD", key, name, name),
    call("SREM", key, name),
    call("SCARD", key),
    call("SISMEMBER", key, name),
    call("ZADD", key, score, name),
    call("ZREM", key, name),
    call("ZREMRANGEBYSCORE", key, bound, bound),
    call("ZSCORE", key, name),
    call("ZCARD", key),
    call("ZCOUNT", key, bound, bound),
    call("ZRANK", key, name),
    call("ZRANGE", key, small, small),
    call("ZRANGE WITHSCORES", key, small, small),
    call("ZRANGE BYSCORE LIMIT 0 2", key, bound, bound),
    call("ZRANGEBYSCORE", key, bound, bound),
    call("XADD", key, stream_id, name, score),
    call("XDEL", key, stream_id),
    call("XLEN", key),
    call("XRANGE", key, low, high),
    call("XRANGE COUNT 2", key, low, high),
    call("XREVRANGE", key, high, st.one_of(stream_id, st.just(b"-"))),
    call("XTRIM", key, st.just(b"MAXLEN"), st.just(b"2")),
    call("XTRIM", key, st.just(b"MINID"), stream_id),
)
UNORDERED = (b"SMEMBERS", b"SPOP", b"SRANDMEMBER")  # the real server picks at random
BY_ITS_CLOCK = (b"TIME", b"PTTL", b"PEXPIREAT")


def test_every_command_of_the_model_is_compared_with_the_real_server() -> None:
    compared = {text.split()[0] for text in _texts()}
    rest = {word.decode() for word in (*UNORDERED, *BY_ITS_CLOCK)}
    assert compared | rest == set(COMMANDS)


def _texts() -> set[str]:
    source = resources.files("tests.simulation").joinpath("test_model.py").read_text("utf-8")
    return {line.split('"')[1] for line in source.splitlines() if line.startswith('    call("')}


@settings(max_examples=300, deadline=None)
@given(st.lists(CALLS, max_size=25))
def test_the_model_answers_each_command_as_the_real_server_does(
    real: valkey.Valkey, calls: list[tuple[bytes, ...]]
) -> None:
    real.flushall()
    server = model()
    for args in calls:
        assert modelled(server, args) == asked(real, args), (args, calls)


@settings(max_examples=100, deadline=None)
@given(st.lists(CALLS, max_size=25))
def test_the_effects_of_commands_lead_to_the_same_data(calls: list[tuple[bytes, ...]]) -> None:
    """A replica, and a server that starts again, have what the effects say."""
    server = model()
    for args in calls:
        modelled(server, args)
    copy = ModelStore.of(server.store.effects, server.store.now_ms)
    assert copy.expires == server.store.expires
    assert {name: _plain(value) for name, value in copy.data.items()} == {
        name: _plain(value) for name, value in server.store.data.items()
    }


def _plain(value: Any) -> Any:
    return (value.ids, value.entries) if hasattr(value, "ids") else value


LUA = (
    "return {1, 2.9, 'text', true, false, 3}",
    "return redis.call('HMGET', KEYS[1], 'no', 'x')",
    "return redis.status_reply('FINE')",
    "return redis.error_reply('MINE it is so')",
    "return {redis.pcall('INCRBY', KEYS[1], 'x').err ~= nil}",
    "return redis.call('LPUSH', KEYS[1], 7, 1.5)",
    "redis.call('SET', KEYS[1], 'x'); return redis.call('HGET', KEYS[1], 'x')",
    "return {#KEYS, #ARGV, ARGV[1], tonumber(ARGV[2]) + 1}",
    "return string.format('%.0f-0', tonumber('1800000000123') + 1)",
    "return redis.call('GET', KEYS[1]) == false",
)


@pytest.mark.parametrize("source", LUA)
def test_the_model_runs_scripts_as_the_real_server_does(real: valkey.Valkey, source: str) -> None:
    real.flushall()
    args = (b"EVAL", source.encode(), b"1", KEYS[0], b"one", b"2")
    assert modelled(model(), args) == asked(real, args)


ID = re.compile(rb"\d{10,13}-\d+")
BY_ITS_TIME = (
    "lease_tick",
    "lease_beat",
)  # the real server is asked within a moment what the model was asked in a minute


def test_a_real_server_answers_a_whole_schedule_as_the_model_did(real: valkey.Valkey) -> None:
    """What the nodes of a calm schedule asked the model is asked of a real server. Only its ids are others."""
    real.flushall()
    trace: list[tuple[tuple[bytes, ...], Reply]] = []
    with patch.object(ModelServer, "trace", trace), patch.object(schedule, "chosen", lambda chance: []):
        assert not schedule.run(seed=7).broken
    ids: dict[bytes, bytes] = {}
    by_time = {load_script(PACKAGE, name).sha.encode() for name in BY_ITS_TIME}
    compared = 0
    for request, reply in trace:
        if request[0] in (b"INFO", b"CLIENT", b"PUBLISH", b"SUBSCRIBE", b"UNSUBSCRIBE", b"TIME"):
            continue
        answer = asked(real, tuple(ID.sub(lambda id: ids.get(id[0], id[0]), part) for part in request))
        if request[0] == b"EVALSHA" and request[1] in by_time:
            continue
        _match(reply, answer, ids)
        compared += 1
    assert compared > 100 and len(ids) > 20


def _match(reply: Reply, answer: Any, ids: dict[bytes, bytes]) -> None:
    """Assert that two replies are the same but for ids, and note which id of the one is which of the other."""
    if isinstance(reply, list):
        assert isinstance(answer, list) and len(reply) == len(answer), (reply, answer)
        for one, other in zip(reply, answer, strict=True):
            _match(one, other, ids)
    elif isinstance(reply, bytes):
        assert isinstance(answer, bytes) and ID.sub(b"#", reply) == ID.sub(b"#", answer), (reply, answer)
        for mine, its in zip(ID.findall(reply), ID.findall(answer), strict=True):
            assert ids.setdefault(mine, its) == its
    else:
        assert reply == answer
