"""Keep tickets in step with an outbox table. Standard library only.

    RT_URL=http://localhost:3002 RT_KEY=irt_… python3 outbox.py tickets.db

`change_ticket` belongs into your application: it writes the change and the push in one transaction, so either both
are stored or neither is. `deliver` is the worker: one process that sends the rows in order and removes them.
"""

import json
import os
import sqlite3
import sys
import time
import urllib.error
import urllib.request
import uuid
from datetime import datetime, timezone

TABLES = """
CREATE TABLE IF NOT EXISTS tickets (id TEXT PRIMARY KEY, subject TEXT, status TEXT);
CREATE TABLE IF NOT EXISTS outbox (number INTEGER PRIMARY KEY AUTOINCREMENT, operation TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS refused (operation TEXT NOT NULL, error TEXT NOT NULL);
"""
AGAIN = ("UNAVAILABLE", "INTERNAL", "RATE_LIMITED", "DRAINING")  # the same operation may succeed later


def change_ticket(db: sqlite3.Connection, ticket_id: str, subject: str, status: str) -> None:
    """Change a ticket and note the push, in one transaction."""
    operation = {
        "op": "ticket.put",
        "ticketId": ticket_id,
        "subject": subject,
        "status": status,
        "at": datetime.now(timezone.utc).isoformat(),  # a change that arrives late does not undo a newer one
        "id": uuid.uuid4().hex,  # the same operation again has no effect
    }
    with db:
        db.execute("INSERT OR REPLACE INTO tickets VALUES (?, ?, ?)", (ticket_id, subject, status))
        db.execute("INSERT INTO outbox (operation) VALUES (?)", (json.dumps(operation),))


def deliver(db: sqlite3.Connection, url: str, key: str) -> int:
    """Send up to 100 rows. Return how many are done; 0: there are none, or the server cannot take them now."""
    rows = db.execute("SELECT number, operation FROM outbox ORDER BY number LIMIT 100").fetchall()
    if not rows:
        return 0
    results = push(url, key, [json.loads(operation) for _, operation in rows])
    done = 0
    with db:
        for (number, operation), result in zip(rows, results):
            error = result.get("error")
            if error and error["code"] in AGAIN:
                break  # this row and those after it stay, so their order stays too
            if error:  # it would fail each time: put it aside for a person to look at
                db.execute("INSERT INTO refused VALUES (?, ?)", (operation, json.dumps(error)))
            db.execute("DELETE FROM outbox WHERE number = ?", (number,))
            done += 1
    return done


def push(url: str, key: str, operations: list) -> list:
    """Send operations in one request and return their results. Without an answer, all of them are UNAVAILABLE."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    body = json.dumps({"operations": operations}).encode()
    request = urllib.request.Request(f"{url}/api/v1/batch", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)["results"]
    except urllib.error.HTTPError as refused:
        if refused.code not in (429, 503):
            raise  # a wrong key or a malformed request: waiting does not help
        return [json.load(refused)] * len(operations)
    except OSError as lost:
        return [{"error": {"code": "UNAVAILABLE", "message": str(lost)}}] * len(operations)


def main() -> None:
    db = sqlite3.connect(sys.argv[1])
    db.executescript(TABLES)
    pause_s = 1.0
    while True:
        if deliver(db, os.environ["RT_URL"], os.environ["RT_KEY"]):
            pause_s = 1.0
        else:
            time.sleep(pause_s)
            waiting = db.execute("SELECT count(*) FROM outbox").fetchone()[0]
            pause_s = min(pause_s * 2, 30.0) if waiting else 1.0


if __name__ == "__main__":
    main()
