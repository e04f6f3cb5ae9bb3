-- Keep a session's record up to date while its client is connected.
--
-- KEYS: record (hash), the set of its node's sessions (pids)
-- ARGV: mode, owner, pid, safety ttl in ms, then field, value, ...
--   open  a client has it now: the connection that had it before loses it
--   keep  something changed: only if the session still belongs to this owner
--   again Valkey or this node was unreachable: also if the record does not exist any more
-- Returns 1; 0 if the session belongs to another connection; -1 if there is no record to keep.
local owner = redis.call('HGET', KEYS[1], 'owner')
if ARGV[1] == 'keep' and not owner then
  return -1
end
if ARGV[1] ~= 'open' and owner and owner ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], 'owner', ARGV[2], 'index', KEYS[2], unpack(ARGV, 5))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('SADD', KEYS[2], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return 1
