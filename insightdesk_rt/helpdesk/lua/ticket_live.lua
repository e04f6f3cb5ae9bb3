-- Set or remove one entry of who views a ticket or types on it.
--
-- KEYS  the ticket's hash of viewers and typing users · set of tickets on which this node has such entries
-- ARGV  ticketId · field, "<node>/…" · what the user does ("" removes the field) · person as JSON
--       · milliseconds until the entry expires (0: it stays until removed) · seconds until the keys expire
-- Values are "<doing> <since ms> <until ms> <person>"; setting the same `doing` again keeps `since`.
-- Answer 1 if anything changed, else 0
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
