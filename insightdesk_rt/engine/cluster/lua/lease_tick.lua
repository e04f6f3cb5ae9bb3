-- Grant work that is done once per cluster. Returns 1 to one node, about once in every `every` milliseconds; 0 to others.
--
-- KEYS  1 leader: string incarnation     2 ticks: hash what -> when it was last done, ms
-- ARGV  1 incarnation   2 what           3 every, ms
--
-- Half of that time must have passed, because the timers of two successive leaders do not run in step.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last = tonumber(redis.call('HGET', KEYS[2], ARGV[2]) or '0')
if now - last < ARGV[3] / 2 and now >= last then return 0 end
redis.call('HSET', KEYS[2], ARGV[2], now)
return 1
