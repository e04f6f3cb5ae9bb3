-- Put down, or take off, that somebody views or types on a ticket.
--
-- KEYS  the ticket's hash of who is there · set of tickets where this node has somebody
-- ARGV  ticketId · field, "<node>/…" · what they do ("" takes the field off) · person as JSON
--       · milliseconds after which this counts no more (0: until taken off) · seconds that the keys may live
-- Values are "<doing> <since ms> <until ms> <person>"; doing the same again keeps `since`. Answers whether anything changed.
local key, tickets = KEYS[1], KEYS[2]
local id, field, doing, person, valid, ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6]
local old = redis.call('HGET', key, field)

if doing == '' then
  if not old then
    return 0
  end
  redis.call('HDEL', key, field)
  local node = string.match(field, '^.-/')
  for _, other in ipairs(redis.call('HKEYS', key)) do
    if string.sub(other, 1, #node) == node then
      return 1
    end
  end
  redis.call('SREM', tickets, id)
  return 1
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local was, at = string.match(old or '', '^(%S+) (%d+) ')
local same = was == doing
local since = same and tonumber(at) or now
local ends = valid > 0 and now + valid or 0
redis.call('HSET', key, field, string.format('%s %.0f %.0f %s', doing, since, ends, person))
redis.call('EXPIRE', key, ttl)
redis.call('SADD', tickets, id)
redis.call('EXPIRE', tickets, ttl)
return same and 0 or 1
