-- Library: the rules of one kind. table: hash id → JSON; untils: zset of those that end, by when (Unix ms);
-- versions: hash kind → how often its rules changed, '@' → a name of this memory, which another one does not have.

local function drop_ended(table, untils)
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', untils, '-inf', now)) do
    redis.call('HDEL', table, id)
    redis.call('ZREM', untils, id)
  end
end

local function changed(versions, kind)
  return {redis.call('HINCRBY', versions, kind, 1), redis.call('HGET', versions, '@') or ''}
end
