-- Let some sessions of a dead node expire after the time that any client has to come back. Idempotent.
--
-- KEYS: the set of the node's sessions, then per session: its record
-- ARGV: ms to keep, then per session: its pid
-- Returns how many are left in the set.
for n = 2, #KEYS do
  if redis.call('HGET', KEYS[n], 'index') == KEYS[1] then
    redis.call('PEXPIRE', KEYS[n], ARGV[1])
  end
  redis.call('SREM', KEYS[1], ARGV[n])
end
return redis.call('SCARD', KEYS[1])
