-- Return the staff connected to /tickets now, or recently.
--
-- KEYS  readers, as in readers_note.lua
-- ARGV  milliseconds for which a user counts
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZRANGE', KEYS[1], now - ARGV[1], '+inf', 'BYSCORE')
