"""Push a ticket, a comment and a notification. RT_URL=http://localhost:3002 RT_KEY=irt_… python3 push.py"""

import json
import os
import time
import urllib.error
import urllib.request


def push(operations: list) -> list:
    """Send operations and return their results. After a failure the same operations are sent again."""
    headers = {"Authorization": "Bearer " + os.environ["RT_KEY"], "Content-Type": "application/json"}
    body = json.dumps({"operations": operations}).encode()
    for pause_s in (0.5, 1, 2, 4, 0):
        request = urllib.request.Request(os.environ["RT_URL"] + "/api/v1/batch", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                results = json.load(answer)["results"]
            if all(one.get("error", {}).get("code") != "UNAVAILABLE" for one in results):
                return results
        except urllib.error.HTTPError as refused:
            if refused.code not in (429, 503):
                raise
        except OSError:
            pass
        time.sleep(pause_s)
    raise RuntimeError("the realtime server cannot be reached")


results = push(
    [
        {"op": "ticket.put", "ticketId": "42", "subject": "Cannot sign in", "status": "open", "requesterId": "mia"},
        {
            "op": "ticket.comment",
            "ticketId": "42",
            "id": "comment-17",
            "kind": "reply",
            "author": {"id": "ann", "name": "Ann"},
            "excerpt": "We are looking into it.",
        },
        {"op": "notification", "id": "reply-17", "userId": "mia", "type": "reply", "title": "Ann has answered"},
    ]
)
for one in results:
    print(json.dumps(one))
