-- Return who of the staff is on /tickets, or was within the time. KEYS 1 readers, as in readers_note.lua
-- ARGV 1 how long one counts, ms
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZRANGE', KEYS[1], now - ARGV[1], '+inf', 'BYSCORE')
