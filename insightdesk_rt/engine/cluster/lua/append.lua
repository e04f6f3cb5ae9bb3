-- Append an event to its namespace's log, once per id, and publish it on the channels of its rooms.
--
-- KEYS: log, dedupe key of the id, the log's state (hash: top, floor, …), bytes since the last mark, marks (list of ids),
--       then per room: its ids (list)
-- ARGV: most entries to keep, the greatest id its publisher has seen, event id, header, payload,
--       the offset it had before ("" unless sent again), its fingerprint ("": do not compare), bytes to keep (0: no limit),
--       then per room: name, channel
-- Returns the offset: the one it has already if the id is known; "" if the id is that of another event.
local keep, seen, event, header, payload, was, print = unpack(ARGV, 1, 7)
local keep_bytes, ROOMS_AT, IDS_AT = tonumber(ARGV[8]), 9, 6
local log, state = KEYS[1], KEYS[3]

local known = redis.call('GET', KEYS[2])
if known then
  local offset, first = known:match('^(%S+) ?(.*)$')
  if was == '' and print ~= '' and first ~= '' and print ~= first then
    return ''
  end
  return offset
end
if was ~= '' then
  -- The dedupe key may have expired during a long outage; the log itself is the authority.
  local there = redis.call('XRANGE', log, was, was)[1]
  if there and there[2][2] == event then
    return was
  end
end

local fields = {'i', event, 'h', header, 'p', payload}
local size, ENTRY, ROOM = #header + #payload, 200, 10 -- the last two: overhead of an entry, and of a field of it
for n = ROOMS_AT, #ARGV, 2 do
  fields[#fields + 1] = 'r'
  fields[#fields + 1] = ARGV[n]
  size = size + #ARGV[n] + ROOM
end

local id = redis.call('XADD', log, 'MAXLEN', '~', keep, '*', unpack(fields))
-- Ids have 13 digits of milliseconds until the year 2286; only those with equal milliseconds need a closer look.
if id:sub(1, 14) <= seen:sub(1, 14) then
  local ms, seq = id:match('^(%d+)-(%d+)$')
  local seen_ms, seen_seq = seen:match('^(%d+)-(%d+)$')
  ms, seq, seen_ms, seen_seq = tonumber(ms), tonumber(seq), tonumber(seen_ms), tonumber(seen_seq)
  if ms < seen_ms or (ms == seen_ms and seq <= seen_seq) then
    -- The log was lost and the clock is behind: an id that was given out once is never given out again.
    redis.call('XDEL', log, id)
    id = string.format('%.0f-0', seen_ms + 1)
    redis.call('XADD', log, 'MAXLEN', '~', keep, id, unpack(fields))
  end
end
-- The log is trimmed by bytes too. After each 64th part of the bytes to keep, the id of the last event is noted as a mark.
-- With more than 64 marks the oldest part is trimmed. This costs one addition per event and no look at the log's size.
if keep_bytes > 0 then
  local bytes, marks = KEYS[4], KEYS[5]
  if redis.call('INCRBY', bytes, size + ENTRY) * 64 > keep_bytes then
    redis.call('SET', bytes, 0)
    if redis.call('RPUSH', marks, id) > 63 then
      redis.call('XTRIM', log, 'MINID', '~', redis.call('LPOP', marks))
    end
  end
end
if redis.call('HSET', state, 'top', id) == 1 then
  redis.call('HSETNX', state, 'floor', id) -- a log that begins here does not have earlier events
end
redis.call('SET', KEYS[2], print == '' and id or id .. ' ' .. print, 'PX', 120000)

local tail = '\n' .. header .. '\n' .. payload
for n = ROOMS_AT, #ARGV, 2 do
  local ids = KEYS[IDS_AT + (n - ROOMS_AT) / 2]
  local previous = redis.call('LINDEX', ids, 0)
  if redis.call('LPUSH', ids, id) > 1100 then
    redis.call('LTRIM', ids, 0, 999)
  end
  redis.call('EXPIRE', ids, 3600)
  redis.call('PUBLISH', ARGV[n + 1], '1L ' .. id .. ' ' .. (previous or '') .. tail)
end
-- Sharded channels have no patterns. So admins who watch events have a channel of their own, which costs nothing until
-- one of them subscribes to it.
--cluster: local monitor = log .. ':monitor'
--cluster: if redis.call('PUBSUB', 'SHARDNUMSUB', monitor)[2] > 0 then
--cluster:   redis.call('PUBLISH', monitor, '1L ' .. id .. ' ' .. tail)
--cluster: end
return id
