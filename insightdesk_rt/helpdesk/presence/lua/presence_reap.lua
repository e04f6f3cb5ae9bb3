-- An incarnation is dead: it can hold nobody any more (that first, and for good), and those it held lose it.
--
-- Called until it answers 0, by any node, also after another reaper died on the way: what is not yet done is still in
-- the incarnation's set.
-- KEYS  base
-- ARGV  incarnation · at most so many users · grace in ms
-- Answer how many users are left
local node, now = ARGV[1], now_ms()
redis.call('ZADD', base .. '-dead', now, node)
redis.call('ZREMRANGEBYSCORE', base .. '-dead', '-inf', now - DEAD_MS)
local held = base .. '-node:' .. node
for _, user in ipairs(redis.call('SRANDMEMBER', held, ARGV[2])) do
  drop(user, node, now, tonumber(ARGV[3]))
end
return redis.call('SCARD', held)
