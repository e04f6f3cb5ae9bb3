"""Values that contain bytes, as Socket.IO sends them: `{"_placeholder":true,"num":i}` stands for the i-th attachment.

Only a packet that declares attachments has placeholders; anywhere else such an object is plain data.
"""

from __future__ import annotations

from typing import Any

from msgspec import Raw

from insightdesk_rt.engine.wire import json


def take_out(value: Any, attachments: list[bytes], depth: int = 0) -> Any:
    """Return the value with its bytes replaced by placeholders and appended to `attachments`, depth first like Node."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        attachments.append(bytes(value))
        return {"_placeholder": True, "num": len(attachments) - 1}
    if depth > json.MAX_DEPTH:
        raise json.BadJson(f"nested deeper than {json.MAX_DEPTH}")
    if isinstance(value, dict):
        return {key: take_out(item, attachments, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [take_out(item, attachments, depth + 1) for item in value]
    return value


def with_attachments(payload: Raw, attachments: tuple[bytes, ...] = (), max_depth: int = json.MAX_DEPTH) -> Any:
    """Return the payload as an untyped value with its attachments in place; None if there is no payload.

    Without attachments a placeholder is plain data. Raises BadJson, also for a placeholder without its attachment.
    """
    text = bytes(payload)
    if not text:
        return None
    value = json.loads(text, max_depth)
    return _put_in(value, attachments) if attachments else value


def _put_in(value: Any, attachments: tuple[bytes, ...]) -> Any:
    """Replace the placeholders in the value, in place.

    Without recursion: when the depth limit is off, a value may be nested deeper than Python's call stack allows.
    """
    whole = [value]
    todo: list[list[Any] | dict[str, Any]] = [whole]
    while todo:
        holder = todo.pop()
        for key, item in holder.items() if isinstance(holder, dict) else enumerate(holder):
            if isinstance(item, list):
                todo.append(item)
            elif isinstance(item, dict):
                if item.get("_placeholder") is True:
                    holder[key] = attachments[_placeholder(item, len(attachments))]  # type: ignore[index]
                else:
                    todo.append(item)
    return whole[0]


def _placeholder(value: dict[str, Any], count: int) -> int:
    """Return the number of a placeholder's attachment. CVE-2022-2421: `"num":"splice"`; True is an int in Python."""
    num = value.get("num")
    if type(num) is not int or not 0 <= num < count:
        raise json.BadJson("illegal attachment")
    return num


def check_placeholders(value: Any, count: int) -> None:
    """Raise BadJson if a placeholder in the value refers to none of the `count` attachments."""
    todo = [value]
    while todo:
        value = todo.pop()
        if isinstance(value, list):
            todo += value
        elif isinstance(value, dict):
            if value.get("_placeholder") is True:
                _placeholder(value, count)
            else:
                todo += value.values()
