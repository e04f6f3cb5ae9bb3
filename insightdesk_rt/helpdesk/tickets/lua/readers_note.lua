-- Store the staff that is connected to /tickets now.
--
-- KEYS  readers: zset of users as JSON → when last seen, in ms
-- ARGV  milliseconds for which a user counts · users…
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], now, ARGV[i])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. (now - ARGV[1]))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
