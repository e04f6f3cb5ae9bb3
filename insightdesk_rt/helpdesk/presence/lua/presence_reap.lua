-- Declare an incarnation dead and remove users from it. From the first call on, it can hold nobody any more.
--
-- Any node calls it until it answers 0, also after another reaper died on the way: the users who are left are still in
-- the incarnation's set.
-- KEYS  base
-- ARGV  incarnation · most users per call · grace period in ms
-- Answer how many users are left
local node, now = ARGV[1], now_ms()
redis.call('ZADD', base .. '-dead', now, node)
redis.call('ZREMRANGEBYSCORE', base .. '-dead', '-inf', now - DEAD_MS)
local held = base .. '-node:' .. node
for _, user in ipairs(redis.call('SRANDMEMBER', held, ARGV[2])) do
  drop(user, node, now, tonumber(ARGV[3]))
end
return redis.call('SCARD', held)
