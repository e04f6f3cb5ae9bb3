-- One node's sign of life; returns {alive, leads, incarnation that is to be reaped...}; alive is 2 for a node that this
-- server knew nothing of, though it was here before: the server was emptied, and what the node holds is to be put again.
--
-- KEYS  1 nodes: zset incarnation -> when its lease ends, ms   2 reaping: zset incarnation -> when it was declared dead
--       3 leader: string incarnation                           4 server: string run id of the server that was last seen
--       5 calm: string, exists while nobody may be declared dead
--       6 lost: zset incarnation -> when it was declared dead, for as long as it may run on without this server
-- ARGV  1 incarnation   2 lease ms   3 "1" for its first beat   4 run id of the server, as the caller saw it
--
-- Only this server's clock counts. A lease that ended moves from nodes to reaping in one step: that is the fence. Its
-- owner, if it still lives, is told 0 and comes back under another name; until its users are drained it stays listed, so
-- that any survivor can go on where another stopped.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local me, lease, first = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'

-- After a restart every lease looks old, and its owner needs a moment to reconnect (it tries at least every two seconds)
-- and to beat: nobody is dead for a lease and a quarter. Longer, and users who are gone would be shown for too long.
if redis.call('GET', KEYS[4]) ~= ARGV[4] then
  redis.call('SET', KEYS[4], ARGV[4])
  redis.call('SET', KEYS[5], '1', 'PX', math.floor(1.25 * lease))
end
local calm = redis.call('EXISTS', KEYS[5]) == 1

local forgotten = not first and not redis.call('ZSCORE', KEYS[1], me)
if forgotten then
  -- Reaped; or, if it is not in reaping either, the server lost its memory and there is nothing to be afraid of.
  if redis.call('ZSCORE', KEYS[2], me) or not calm then return {0, 0} end
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

local answer = {forgotten and 2 or 1, leader == me and 1 or 0}
for _, dead in ipairs(redis.call('ZRANGE', KEYS[2], 0, 9)) do
  answer[#answer + 1] = dead
end
return answer
