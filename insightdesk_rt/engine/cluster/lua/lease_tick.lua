-- May this node do, now, what is done once per cluster? Returns 1 to one node, once in (about) every_ms.
--
-- KEYS  1 leader: string incarnation     2 ticks: hash what -> when it was last done, ms
-- ARGV  1 incarnation   2 what           3 every, ms
--
-- Half the time has to be over: the clocks of two leaders, one after the other, are not in step.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last = tonumber(redis.call('HGET', KEYS[2], ARGV[2]) or '0')
if now - last < ARGV[3] / 2 and now >= last then return 0 end
redis.call('HSET', KEYS[2], ARGV[2], now)
return 1
