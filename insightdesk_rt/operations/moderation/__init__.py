"""What admins rule: blocks, revocations, notices, rates, log levels."""
