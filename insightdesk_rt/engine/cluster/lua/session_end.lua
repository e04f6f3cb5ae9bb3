-- A connection has ended: keep its session's record for as long as the client may come back, or delete it.
--
-- KEYS: record, the set of its node's sessions
-- ARGV: owner, pid, ms to keep (0: it ended on purpose), rooms, their starts
-- Returns 1; 0 if the session belongs to another connection.
redis.call('SREM', KEYS[2], ARGV[2])
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then
  return 0 -- the client has come back already, perhaps on another node
end
if ARGV[3] == '0' then
  redis.call('DEL', KEYS[1])
else
  redis.call('HSET', KEYS[1], 'rooms', ARGV[4], 'starts', ARGV[5] or '', 'ended', '1')
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 1
