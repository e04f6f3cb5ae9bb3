"""The protocols, pure: bytes in, packets out, and back. No await, no clock, no socket; callers pass the time."""
