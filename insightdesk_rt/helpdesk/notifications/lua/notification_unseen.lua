-- If a notification was not read in time, add a pending event (after pending_events.lua). The caller has read the list of
-- those whose time has passed; each is reported once.
--
-- KEYS  as in notification_push.lua
-- ARGV  userId · id
-- Answer records of the user's pending events, none if there is nothing to report
local items, _, unread, key, list, index, unseen = unpack(KEYS)
local user, id, now = ARGV[1], ARGV[2], now_ms()
local member = user .. '\n' .. id
local due = redis.call('ZSCORE', unseen, member)
if not due or tonumber(due) > now then
  return {}
end
redis.call('ZREM', unseen, member)
local item = redis.call('HGET', items, id)
if not item or not redis.call('ZSCORE', unread, id) then
  return {}
end
add_pending_event(index, list, key, user, 'unseen', item, now)
return pending_events(list)
