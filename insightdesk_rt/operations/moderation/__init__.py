"""What admins may change while the servers run: blocks, revocations, notices, rates, log levels."""
