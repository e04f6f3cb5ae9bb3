-- Add or replace a rule.
-- KEYS: table, untils, versions. ARGV: kind, id, text, until (ms; 0: no end), max rules, a new memory's name, only
-- only: 'new': do not replace an existing rule; 'there': do not add one; '': either.
-- Returns the version and the memory's name. Version 0: nothing was changed; there are too many rules, or none to replace.
local kind, id, ends = ARGV[1], ARGV[2], tonumber(ARGV[4])
drop_expired(KEYS[1], KEYS[2])
if redis.call('HEXISTS', KEYS[1], id) == 1 then
  if ARGV[7] == 'new' then
    return {redis.call('HGET', KEYS[3], kind), redis.call('HGET', KEYS[3], '@')}
  end
elseif ARGV[7] == 'there' or redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[5]) then
  return {0, ''}
end
redis.call('HSET', KEYS[1], id, ARGV[3])
if ends == 0 then
  redis.call('ZREM', KEYS[2], id)
else
  redis.call('ZADD', KEYS[2], ends, id)
end
redis.call('HSETNX', KEYS[3], '@', ARGV[6])
return changed(KEYS[3], kind)
