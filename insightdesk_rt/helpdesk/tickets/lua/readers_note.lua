-- Note who of the staff is on /tickets now. KEYS 1 readers: zset user as JSON -> when last seen, ms
-- ARGV 1 how long one counts, ms   2... users
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], now, ARGV[i])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. (now - ARGV[1]))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
