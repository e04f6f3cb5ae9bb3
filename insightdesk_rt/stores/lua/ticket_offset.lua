-- Remember where in the log the last thing lies that was told of a ticket: what a change of nothing answers.
--
-- KEYS  base
-- ARGV  ticketId · seq of what was told · its offset
local key = KEYS[1] .. ':' .. ARGV[1]
if redis.call('EXISTS', key) == 1 and tonumber(ARGV[2]) >= tonumber(redis.call('HGET', key, 'told') or 0) then
  redis.call('HSET', key, 'told', ARGV[2], 'offset', ARGV[3])
end
return redis.status_reply('OK')
