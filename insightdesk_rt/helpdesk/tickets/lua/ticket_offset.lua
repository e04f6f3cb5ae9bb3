-- Store the offset of a ticket's last published event, which the answer to a change without effect contains.
--
-- KEYS  base
-- ARGV  ticketId · seq of the published event · its offset
local key = KEYS[1] .. ':' .. ARGV[1]
if redis.call('EXISTS', key) == 1 and tonumber(ARGV[2]) >= tonumber(redis.call('HGET', key, 'told') or 0) then
  redis.call('HSET', key, 'told', ARGV[2], 'offset', ARGV[3])
end
-- Grants that began with this change begin at its offset.
local grants = redis.call('HGET', key, 'grants')
if grants and string.find(grants, ARGV[2], 1, true) then
  local rights = cjson.decode(grants)
  for name, since in pairs(rights) do
    if string.match(since, '^%d+') == ARGV[2] then
      rights[name] = ARGV[2] .. ' ' .. ARGV[3]
    end
  end
  redis.call('HSET', key, 'grants', cjson.encode(rights))
end
return redis.status_reply('OK')
