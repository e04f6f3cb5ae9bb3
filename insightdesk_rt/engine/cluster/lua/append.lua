-- Put an event into its namespace's log, once per id, and tell every node that listens to one of its rooms.
--
-- KEYS: log, dedupe key of the id, tops (hash: namespace -> last id), floors (hash), then per room: its ids (list)
-- ARGV: namespace, length to keep, the greatest id its publisher has seen, event id, header, payload,
--       the offset it had before ("" unless sent again), its fingerprint ("": not to be compared), bytes to keep (0: any),
--       then per room: name, channel
-- Returns the offset: the one it has already if the id is known; "" if the id is that of another event.
local namespace, keep, seen, event, header, payload, was, print = unpack(ARGV, 1, 8)
local keep_bytes, ROOMS_AT = tonumber(ARGV[9]), 10
local log = KEYS[1]

local known = redis.call('GET', KEYS[2])
if known then
  local offset, first = known:match('^(%S+) ?(.*)$')
  if was == '' and print ~= '' and first ~= '' and print ~= first then
    return ''
  end
  return offset
end
if was ~= '' then
  -- The dedupe key may have expired during a long outage; the log itself knows best.
  local there = redis.call('XRANGE', log, was, was)[1]
  if there and there[2][2] == event then
    return was
  end
end

local fields = {'i', event, 'h', header, 'p', payload}
local size, ENTRY, ROOM = #header + #payload, 200, 10 -- the last two: what an entry, and a field of it, take besides
for n = ROOMS_AT, #ARGV, 2 do
  fields[#fields + 1] = 'r'
  fields[#fields + 1] = ARGV[n]
  size = size + #ARGV[n] + ROOM
end

local id = redis.call('XADD', log, 'MAXLEN', '~', keep, '*', unpack(fields))
-- Ids have 13 digits of milliseconds until the year 2286; only those of the same one need a closer look.
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
-- The log is trimmed by bytes too: each 64th part of them is marked by the id of its last event, and with more than 64
-- parts the oldest goes. So it costs one addition per event, and needs no look at the log's own size.
if keep_bytes > 0 then
  local bytes, marks = log .. ':bytes', log .. ':marks'
  if redis.call('INCRBY', bytes, size + ENTRY) * 64 > keep_bytes then
    redis.call('SET', bytes, 0)
    if redis.call('RPUSH', marks, id) > 63 then
      redis.call('XTRIM', log, 'MINID', '~', redis.call('LPOP', marks))
    end
  end
end
if redis.call('HSET', KEYS[3], namespace, id) == 1 then
  redis.call('HSETNX', KEYS[4], namespace, id) -- a log that begins here knows nothing of what was before
end
redis.call('SET', KEYS[2], print == '' and id or id .. ' ' .. print, 'PX', 120000)

local tail = '\n' .. header .. '\n' .. payload
for n = ROOMS_AT, #ARGV, 2 do
  local ids = KEYS[4 + (n - ROOMS_AT + 2) / 2]
  local previous = redis.call('LINDEX', ids, 0)
  if redis.call('LPUSH', ids, id) > 1100 then
    redis.call('LTRIM', ids, 0, 999)
  end
  redis.call('EXPIRE', ids, 3600)
  redis.call('PUBLISH', ARGV[n + 1], '1L ' .. id .. ' ' .. (previous or '') .. tail)
end
return id
