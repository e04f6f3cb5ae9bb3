-- Library, put in front of scripts whose changes clients must receive: it stores the event together with the change.
--
-- `add_pending_event` stores a record of the event in the same step as the change. If the node dies or loses Valkey before
-- it has published the event, another node finds the record and publishes it. A record is "<seq> <kind> <data>". The
-- records of a subject are a list in the order of its changes; an index (zset) holds since when a subject has any. A node
-- publishes the records of a subject in order, under event ids made of subject and seq. Several nodes may publish the same
-- record: the log takes an id once.
--
-- Where the caller gave the change an id of its own, the record is "<seq> <kind>:<once> <data>", and the event's id is made
-- of `once`. A repeat by the caller is then the same event to the log, even if Valkey has lost the record in between.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- `index`, `list`: keys of the index and of the subject's list; `hash`: the subject's. Its seq grows with the clock, not by
-- one. So a subject that was forgotten and comes back, or that lost its last seconds together with Valkey, never uses an
-- id twice: the log would drop the second event.
local function add_pending_event(index, list, hash, subject, kind, data, now, once)
  local seq = math.max(tonumber(redis.call('HGET', hash, 'seq') or 0) + 1, now)
  redis.call('HSET', hash, 'seq', string.format('%.0f', seq))
  kind = once and kind .. ':' .. once or kind
  redis.call('RPUSH', list, string.format('%.0f ', seq) .. kind .. ' ' .. data)
  redis.call('ZADD', index, 'NX', now, subject)
end

local function pending_events(list)
  return redis.call('LRANGE', list, 0, -1)
end
