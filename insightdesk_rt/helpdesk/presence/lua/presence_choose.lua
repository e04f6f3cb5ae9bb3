-- A user chooses a status. It holds until the next choice; an offline user gets it on the next connect.
--
-- own KEYS  the user's two
-- ARGV  userId · online, busy or away
-- Answer {1 if others see a change, else 0, records of pending events}
local user, chosen, now = user_at(9, ARGV[1]), ARGV[2], now_ms()
local status = redis.call('HGET', user.hash, 'status')
redis.call('HSET', user.hash, 'chosen', chosen)
if not status then
  redis.call('EXPIRE', user.hash, OTHERS_S)
end
if not status or status == 'offline' or status == chosen then
  return { 0, pending_events(user.list) } -- events of an earlier call may be pending
end
redis.call('HSET', user.hash, 'lastSeen', string.format('%.0f', now))
set_status(user, chosen, now)
return { 1, pending_events(user.list) }
