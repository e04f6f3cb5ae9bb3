-- A node stops: the others clear what it may still hold at once, instead of when its lease ends.
--
-- KEYS  1 nodes   2 reaping   3 leader        ARGV  1 incarnation
local time = redis.call('TIME')
if redis.call('ZREM', KEYS[1], ARGV[1]) == 1 then
  redis.call('ZADD', KEYS[2], time[1] * 1000 + math.floor(time[2] / 1000), ARGV[1])
end
if redis.call('GET', KEYS[3]) == ARGV[1] then redis.call('DEL', KEYS[3]) end
return 1
