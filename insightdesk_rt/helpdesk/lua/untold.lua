-- Library, put in front of scripts that change something others must hear of.
--
-- `tell` leaves a record of the event in the same step as the change, so that whoever dies, or loses Valkey, between the
-- change and its telling leaves the telling to somebody else. A record is "<seq> <kind> <data>"; the records of a
-- subject lie in a list in the order of its changes, and an index says since when a subject has any. Whoever tells one
-- tells those before it first, under ids made of subject and seq: however many tell it, the log takes it once, in order.
--
-- Where the caller named the change by an id of its own, the record is "<seq> <kind>:<once> <data>", and its event's id is
-- made of `once`. So the caller's repeat is the same event to the log also when Valkey has lost the record meanwhile.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- `key`: the subject's hash. Its numbers grow with the clock, not by one: a subject that was forgotten and comes back, or
-- that a Valkey without its last seconds has as it was before, never uses an id again. The log would not take it.
local function tell(base, subject, key, kind, data, now, once)
  local seq = math.max(tonumber(redis.call('HGET', key, 'seq') or 0) + 1, now)
  redis.call('HSET', key, 'seq', string.format('%.0f', seq))
  kind = once and kind .. ':' .. once or kind
  redis.call('RPUSH', base .. '-untold:' .. subject, string.format('%.0f ', seq) .. kind .. ' ' .. data)
  redis.call('ZADD', base .. '-untold', 'NX', now, subject)
end

local function untold(base, subject)
  return redis.call('LRANGE', base .. '-untold:' .. subject, 0, -1)
end
