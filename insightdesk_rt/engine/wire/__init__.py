"""Floor 0, pure: bytes in, packets out, and back. No await, no clock, no socket; time comes in as an argument."""
