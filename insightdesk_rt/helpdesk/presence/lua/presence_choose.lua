-- A user chooses a status. It holds until the next choice; who is offline gets it on the next connect.
--
-- KEYS  base
-- ARGV  userId · online, busy or away
-- Answer {1 others see a change · 0 nobody does, records still to be told}
local user, chosen, now = ARGV[1], ARGV[2], now_ms()
local key = user_key(user)
local status = redis.call('HGET', key, 'status')
redis.call('HSET', key, 'chosen', chosen)
if not status then
  redis.call('EXPIRE', key, OTHERS_S)
end
if not status or status == 'offline' or status == chosen then
  return { 0, pending_events(base, user) } -- what an earlier call could not have told
end
redis.call('HSET', key, 'lastSeen', string.format('%.0f', now))
turn(user, chosen, now)
return { 1, pending_events(base, user) }
