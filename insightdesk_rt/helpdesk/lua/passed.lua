-- Return members of a sorted set whose time has passed, the oldest first. Its scores are Unix ms.
--
-- KEYS  the set
-- ARGV  for at least how long it has passed, in ms · most members
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[1], 'LIMIT', 0, ARGV[2])
