"""Runs Lua scripts in the Lua that the real server has (5.1), over a model store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from lupa.lua51 import LuaError, LuaRuntime, lua_type

from tests.simulation.model_store import OK, Reply, ReplyError, Status

Call = Callable[[tuple[bytes, ...]], Reply]


class Scripts:
    """All scripts that were ever loaded, compiled once, whatever server runs them. `source` finds them by hash."""

    def __init__(self) -> None:
        self._lua = LuaRuntime(encoding=None, unpack_returned_tuples=True)
        self._call: Call = lambda args: None
        self._compiled: dict[bytes, Any] = {}
        self.source: dict[bytes, bytes] = {}
        self._table = self._lua.table_from
        self._lua.globals()[b"rt_call"] = self._from_lua
        # An error of redis.call ends the script unless it is caught, as on the server.
        self._lua.execute(
            b"""
            redis = { status_reply = function(text) return { ok = text } end,
                      error_reply = function(text) return { err = text } end }
            function redis.call(...)
              local answer = rt_call(...)
              if type(answer) == 'table' and answer.err then error(answer.err, 0) end
              return answer
            end
            function redis.pcall(...) return rt_call(...) end
            """
        )

    def load(self, source: bytes) -> bytes:
        """Return the script's hash."""
        sha = hashlib.sha1(source, usedforsecurity=False).hexdigest().encode()
        if sha not in self._compiled:
            self._compiled[sha] = self._lua.eval(b"function(KEYS, ARGV) " + source + b"\nend")
            self.source[sha] = source
        return sha

    def run(self, sha: bytes, keys: Sequence[bytes], args: Sequence[bytes], call: Call) -> Reply:
        """Run a script; `call` executes its commands. Raises ReplyError."""
        self._call = call
        try:
            return self._to_reply(self._compiled[sha](self._table(keys), self._table(args)))
        except LuaError as failed:
            text = failed.args[0]
            shown = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
            raise ReplyError(shown if shown.split(" ")[0].isupper() else f"ERR {shown}") from None

    def _from_lua(self, *args: Any) -> Any:
        try:
            return self._to_lua(self._call(tuple(_text(arg) for arg in args)))
        except ReplyError as refused:
            return self._lua.table_from({b"err": str(refused).encode()})

    def _to_lua(self, reply: Reply) -> Any:
        if reply is None:
            return False
        if isinstance(reply, Status):
            return self._lua.table_from({b"ok": bytes(reply)})
        if isinstance(reply, list):
            return self._lua.table_from([self._to_lua(part) for part in reply])
        return reply

    def _to_reply(self, value: Any) -> Reply:
        if value is None or value is False:
            return None
        if value is True:
            return 1
        if isinstance(value, float):
            return int(value)
        if lua_type(value) == "table":
            if value[b"err"] is not None:
                raise ReplyError(value[b"err"].decode())
            if value[b"ok"] is not None:
                return OK if value[b"ok"] == b"OK" else Status(value[b"ok"])
            parts: list[Reply] = []
            while (part := value[len(parts) + 1]) is not None:
                parts.append(self._to_reply(part))
            return parts
        return value


def _text(arg: Any) -> bytes:
    if isinstance(arg, bytes):
        return arg
    if isinstance(arg, int):
        return b"%d" % arg
    if isinstance(arg, float):
        return b"%.17g" % arg
    raise ReplyError("ERR Lua redis lib command arguments must be strings or integers")
