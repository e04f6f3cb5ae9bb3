-- Return what some rooms missed after an offset: the offsets of all their events, and the first events if there are few.
--
-- KEYS: log, the log's state (hash: top, floor), then per room: its ids (list, newest first, up to 1000 and for an hour
--       after the last)
-- ARGV: offset, most ids, ids to fetch at once, bytes to return
-- Returns {1 if nothing is missing, else 0; last id of the log; its floor; {ids that are left to fetch, in no order}; id,
-- header, payload of each event}. If something is missing the answer has no events, and the client must reload.
--
-- The cost depends on what these rooms missed and not on the events of other rooms, because the log itself is not walked.
-- So an offset older than an hour is good only if the rooms' lists still reach back to it.
local since = ARGV[1]
local most, at_once, room_for = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local log = KEYS[1]
local PART, KEPT, KEPT_MS = 100, 1000, 3600000

local since_ms, since_seq = parts(since)

local function later(id)
  local ms, seq = parts(id)
  return ms > since_ms or (ms == since_ms and seq > since_seq)
end

local top, floor = unpack(redis.call('HMGET', KEYS[2], 'top', 'floor'))
top = top or '0-0'
local short = { 0, top, floor or '0-0', {} }
local top_ms, top_seq = parts(top)
-- Without a floor there is no log. An offset beyond the log's end belongs to a log that was lost.
if (floor and later(floor)) or (not floor and since ~= '0-0')
  or since_ms > top_ms or (since_ms == top_ms and since_seq > top_seq) then
  return short
end
if not later(top) then
  return { 1, top, floor or '0-0', {} } -- the whole namespace had no event
end

local time = redis.call('TIME')
local forgotten = tonumber(time[1]) * 1000 + tonumber(time[2]) / 1000 - since_ms >= KEPT_MS
local missed, known = {}, {}
for n = 3, #KEYS do
  local at, reached = 0, false
  while not reached do
    local ids = redis.call('LRANGE', KEYS[n], at, at + PART - 1)
    for _, id in ipairs(ids) do
      if not later(id) then
        reached = true
        break
      end
      if not known[id] then
        known[id] = true
        missed[#missed + 1] = id
      end
    end
    if #missed > most then
      return short
    end
    at = at + #ids
    if not reached and #ids < PART then
      if forgotten or at >= KEPT then
        return short -- events before the end of the list are not known
      end
      reached = true
    end
  end
end

-- The offset is that of an entry. If the log reaches back to it and has no such entry, then the offset is of another log:
-- of a server that lost its last second, or of a primary that took writes beside this one. Their offsets say nothing here.
local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
if since ~= '0-0' and first and not later(first[1]) and not redis.call('XRANGE', log, since, since)[1] then
  return short
end

local answer = { 1, top, floor or '0-0', missed }
if #missed > at_once then
  return answer
end
table.sort(missed, function(a, b)
  return after(b, a)
end)
local bytes, taken = 0, 0
for _, id in ipairs(missed) do
  local entry = redis.call('XRANGE', log, id, id)[1]
  if not entry then
    return short -- trimmed by age
  end
  local fields = entry[2]
  answer[#answer + 1] = id
  answer[#answer + 1] = fields[4]
  answer[#answer + 1] = fields[6]
  bytes, taken = bytes + #fields[6], taken + 1
  if bytes > room_for then
    break
  end
end
local left = {}
for n = taken + 1, #missed do
  left[#left + 1] = missed[n]
end
answer[4] = left
return answer
