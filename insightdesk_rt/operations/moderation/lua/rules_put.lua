-- KEYS: table, untils, versions. ARGV: kind, id, text, until (ms; 0: no end), most, a new memory's name, only
-- only: 'new': leave one that is there as it is; 'there': do not make one that is not; '': either.
-- Answer the version and the memory's name; version 0: nothing was done, as there are too many, or there is none.
local kind, id, ends = ARGV[1], ARGV[2], tonumber(ARGV[4])
drop_ended(KEYS[1], KEYS[2])
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
