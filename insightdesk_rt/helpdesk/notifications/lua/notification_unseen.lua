-- Find notifications that were not read in time, and add a pending event for each (after pending_events.lua).
--
-- KEYS  base
-- ARGV  at most so many notifications
-- Answer {userId, records}…
local base, now, found = KEYS[1], now_ms(), {}
local due = base .. '-unseen'
for _, member in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, ARGV[1])) do
  redis.call('ZREM', due, member)
  local user, id = string.match(member, '^(.*)\n([^\n]*)$')
  local item = redis.call('HGET', base .. '-items:' .. user, id)
  if item and redis.call('ZSCORE', base .. '-unread:' .. user, id) then
    add_pending_event(base, user, base .. ':' .. user, 'unseen', item, now)
    found[#found + 1] = { user, pending_events(base, user) }
  end
end
return found
