"""How a client's message becomes a call of a namespace's handler, and its answer an ack."""
