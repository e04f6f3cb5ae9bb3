-- Remove a rule.
-- KEYS: table, untils, versions. ARGV: kind, id. Returns the same as rules_put; version 0: there is no such rule.
drop_expired(KEYS[1], KEYS[2])
if redis.call('HDEL', KEYS[1], ARGV[2]) == 0 then
  return {0, ''}
end
redis.call('ZREM', KEYS[2], ARGV[2])
return changed(KEYS[3], ARGV[1])
