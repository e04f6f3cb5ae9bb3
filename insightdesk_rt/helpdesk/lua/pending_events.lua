-- Library, put in front of scripts whose changes clients must hear of: it stores the event together with the change.
--
-- `add_pending_event` stores a record of the event in the same step as the change. If the node dies or loses Valkey before
-- it has published the event, another node finds the record and publishes it. A record is "<seq> <kind> <data>". The
-- records of a subject are a list in the order of its changes; an index holds since when a subject has any. A node
-- publishes the records of a subject in order, under event ids made of subject and seq. Several nodes may publish the same
-- record: the log takes an id once.
--
-- Where the caller gave the change an id of its own, the record is "<seq> <kind>:<once> <data>", and the event's id is made
-- of `once`. A repeat by the caller is then the same event to the log, even if Valkey has lost the record in between.
--
-- The keys keep their first name: <base>-untold is the index, <base>-untold:<subject> a subject's list.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- `key`: the subject's hash. Its seq grows with the clock, not by one. So a subject that was forgotten and comes back, or
-- that lost its last seconds together with Valkey, never uses an id twice: the log would drop the second event.
local function add_pending_event(base, subject, key, kind, data, now, once)
  local seq = math.max(tonumber(redis.call('HGET', key, 'seq') or 0) + 1, now)
  redis.call('HSET', key, 'seq', string.format('%.0f', seq))
  kind = once and kind .. ':' .. once or kind
  redis.call('RPUSH', base .. '-untold:' .. subject, string.format('%.0f ', seq) .. kind .. ' ' .. data)
  redis.call('ZADD', base .. '-untold', 'NX', now, subject)
end

local function pending_events(base, subject)
  return redis.call('LRANGE', base .. '-untold:' .. subject, 0, -1)
end
