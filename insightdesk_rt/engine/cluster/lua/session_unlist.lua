-- Remove a claimed session from the set of the node that held it before. Only the claim knows which set that is, hence
-- this second step. If the claiming node dies before it, that node's sessions are reaped later, and `session_reap.lua`
-- leaves a record alone that is not listed there any more. If the session has come back to the old node meanwhile, its
-- record names this set again, and it stays listed.
--
-- KEYS: record, the set
-- ARGV: pid
-- Returns 1 if it was removed.
if redis.call('HGET', KEYS[1], 'index') == KEYS[2] then
  return 0
end
return redis.call('SREM', KEYS[2], ARGV[1])
