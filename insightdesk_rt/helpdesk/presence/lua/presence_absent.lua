-- Return users whose grace period has ended, for presence_sweep.lua, and forget agents who were absent for too long.
--
-- ARGV  limit
local now = now_ms()
redis.call('ZREMRANGEBYSCORE', AGENTS.offline, '-inf', now - STAFF_S * 1000)
return redis.call('ZRANGEBYSCORE', GRACE, '-inf', now, 'LIMIT', 0, ARGV[1])
