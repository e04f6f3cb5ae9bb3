-- Library: the rules of one kind.
--
-- table: hash id → JSON. untils: zset of the ids that expire → when (Unix ms).
-- versions: hash kind → how often its rules changed; '@' → a random name, which is lost with all other data.

local function drop_expired(table, untils)
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
