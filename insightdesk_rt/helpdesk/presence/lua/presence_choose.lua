-- A user chooses a status. It holds until the next choice; an offline user gets it on the next connect.
--
-- KEYS  base
-- ARGV  userId · online, busy or away
-- Answer {1 if others see a change, else 0, records of pending events}
local user, chosen, now = ARGV[1], ARGV[2], now_ms()
local key = user_key(user)
local status = redis.call('HGET', key, 'status')
redis.call('HSET', key, 'chosen', chosen)
if not status then
  redis.call('EXPIRE', key, OTHERS_S)
end
if not status or status == 'offline' or status == chosen then
  return { 0, pending_events(base, user) } -- events of an earlier call may be pending
end
redis.call('HSET', key, 'lastSeen', string.format('%.0f', now))
set_status(user, chosen, now)
return { 1, pending_events(base, user) }
