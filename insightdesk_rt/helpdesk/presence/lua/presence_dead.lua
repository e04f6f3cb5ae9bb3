-- Declare an incarnation dead, and return some of the users it holds. From the first call on, it can hold nobody else.
--
-- KEYS  dead · the node's users
-- ARGV  incarnation · most users
local time = redis.call('TIME')
local now, DEAD_MS = time[1] * 1000 + math.floor(time[2] / 1000), 86400000
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - DEAD_MS)
return redis.call('SRANDMEMBER', KEYS[2], ARGV[2])
