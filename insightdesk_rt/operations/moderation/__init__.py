"""Changes by admins at run time: blocks, revocations, notices, rates, log levels."""
