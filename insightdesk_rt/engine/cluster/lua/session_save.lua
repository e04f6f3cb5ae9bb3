-- Keep a session's record up to date while its client is connected.
--
-- KEYS: record (hash), index of its node (set of pids)
-- ARGV: mode, owner, pid, safety ttl ms, then field, value, ...
--   open  a client has it now: whoever had it before has lost it
--   keep  something changed: only if it is still this owner's
--   again Valkey or this node was away: also if nothing is left of it
-- Returns 1; 0 if the session is another's by now; -1 if there is nothing to keep.
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
