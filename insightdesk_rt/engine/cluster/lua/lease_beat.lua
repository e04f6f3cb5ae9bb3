-- Renew a node's lease, and declare nodes dead whose leases have ended.
--
-- Returns {alive, leads, nodes that live, incarnation to be reaped...}. alive: 1; 0 if this incarnation was declared dead;
-- 2 if the server does not know a node that was here before. The server was emptied then, and the node must store what
-- it holds again.
--
-- KEYS  1 nodes: zset incarnation -> when its lease ends, ms   2 reaping: zset incarnation -> when it was declared dead
--       3 leader: string incarnation                           4 server: string run id of the server that was last seen
--       5 calm: string, exists while nobody may be declared dead
--       6 lost: zset incarnation -> when it was declared dead, for as long as it may run on without this server
-- ARGV  1 incarnation   2 lease ms   3 "1" for its first beat   4 run id of the server, as the caller saw it
--
-- Only this server's clock counts. An expired lease moves from `nodes` to `reaping` in one step, which fences its owner: if
-- it still runs, it gets 0 and returns under another incarnation. The entry stays in `reaping` until everything that the
-- node held is cleared, so that any node can continue where another one stopped.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local me, lease, first = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'

-- After a restart of the server every lease looks old, and its owner needs a moment to reconnect (it tries at least every
-- two seconds) and to renew it. So no node is declared dead for one and a quarter leases. With a longer pause, users of
-- nodes that did die would be shown as online for too long.
if redis.call('GET', KEYS[4]) ~= ARGV[4] then
  redis.call('SET', KEYS[4], ARGV[4])
  redis.call('SET', KEYS[5], '1', 'PX', math.floor(1.25 * lease))
end
local calm = redis.call('EXISTS', KEYS[5]) == 1

local forgotten = not first and not redis.call('ZSCORE', KEYS[1], me)
if forgotten then
  -- It was declared dead. If it is not in `reaping` either, the server was emptied, and the node may continue.
  if redis.call('ZSCORE', KEYS[2], me) or not calm then return {0, 0, 0} end
end
redis.call('ZADD', KEYS[1], now + lease, me)

if not calm then
  for _, dead in ipairs(redis.call('ZRANGE', KEYS[1], '-inf', '(' .. now, 'BYSCORE', 'LIMIT', 0, 100)) do
    redis.call('ZREM', KEYS[1], dead)
    redis.call('ZADD', KEYS[2], now, dead)
    redis.call('ZADD', KEYS[6], now, dead)
  end
  redis.call('ZREMRANGEBYSCORE', KEYS[6], '-inf', now - 86400000)  -- no connection of a client lasts longer
end

local leader = redis.call('GET', KEYS[3])
if leader == me or not leader then
  redis.call('SET', KEYS[3], me, 'PX', lease)
  leader = me
end

local answer = {forgotten and 2 or 1, leader == me and 1 or 0, redis.call('ZCARD', KEYS[1])}
for _, dead in ipairs(redis.call('ZRANGE', KEYS[2], 0, 9)) do
  answer[#answer + 1] = dead
end
return answer
