-- Remember where in the log the last thing lies that was told of a ticket: what a change of nothing answers.
--
-- KEYS  base
-- ARGV  ticketId · seq of what was told · its offset
local key = KEYS[1] .. ':' .. ARGV[1]
if redis.call('EXISTS', key) == 1 and tonumber(ARGV[2]) >= tonumber(redis.call('HGET', key, 'told') or 0) then
  redis.call('HSET', key, 'told', ARGV[2], 'offset', ARGV[3])
end
-- The rights that began with this change begin where the log has it.
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
