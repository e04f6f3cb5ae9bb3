-- Read on in a namespace's log after an offset, for some rooms or (with none named) for all.
--
-- KEYS: log, tops, floors, then per room: its ids (list, newest first, up to 1000 and for an hour after the last)
-- ARGV: namespace, offset, entries to look at, bytes to return, then the rooms' names
-- Returns {below the floor?, something is missing?, looked at up to, end reached?, last id of the log,
-- then id, header, payload of each entry}.
--
-- A client that comes back soon is answered from the rooms' ids: the cost is what it missed, not what all others were
-- told meanwhile. Only for an offset older than those are kept, and for a node that repairs, the log itself is walked.
local namespace, since = ARGV[1], ARGV[2]
local look, room_for = tonumber(ARGV[3]), tonumber(ARGV[4])
local log = KEYS[1]

local function parts(id)
  local ms, seq = id:match('^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end

local function after(a, b)
  local am, as = parts(a)
  local bm, bs = parts(b)
  return am > bm or (am == bm and as > bs)
end

local top = redis.call('HGET', KEYS[2], namespace) or '0-0'
local floor = redis.call('HGET', KEYS[3], namespace)
-- No floor: no log. An offset beyond the log's end is one of a log that is gone.
local below = ((floor and after(floor, since)) or (not floor and since ~= '0-0') or after(since, top)) and 1 or 0
local answer = {below, 0, top, 1, top}
local bytes = 0

local function take(entry)
  local fields = entry[2]
  answer[#answer + 1] = entry[1]
  answer[#answer + 1] = fields[4]
  answer[#answer + 1] = fields[6]
  bytes = bytes + #fields[6]
end

local rooms, newest = nil, top
local forgotten = false
if #ARGV > 4 then
  rooms, newest = {}, '0-0'
  local time = redis.call('TIME')
  local now_ms = tonumber(time[1]) * 1000 + tonumber(time[2]) / 1000
  forgotten = now_ms - parts(since) >= 3600000
  for n = 5, #ARGV do
    rooms[ARGV[n]] = true
    local last = redis.call('LINDEX', KEYS[n - 1], 0) or (forgotten and top) or '0-0'
    if after(last, newest) then
      newest = last
    end
  end
end
if not after(newest, since) then
  return answer -- the usual one to a client that comes back: nothing was said meanwhile
end

if rooms and not forgotten then
  local missed, known = {}, {}
  for n = 4, #KEYS do
    local ids = redis.call('LRANGE', KEYS[n], 0, 999)
    local reached = #ids < 1000
    for _, id in ipairs(ids) do
      if not after(id, since) then
        reached = true
        break
      end
      if not known[id] then
        known[id] = true
        missed[#missed + 1] = id
      end
    end
    if not reached then
      answer[2] = 1
    end
  end
  table.sort(missed, function(a, b) return after(b, a) end)
  for n, id in ipairs(missed) do
    local entry = redis.call('XRANGE', log, id, id)[1]
    if entry then
      take(entry)
    else
      answer[2] = 1
    end
    if n < #missed and (n >= look or bytes > room_for) then
      answer[3], answer[4] = id, 0
      break
    end
  end
  return answer
end

-- A marker, or the floor itself, comes first while nothing was cut off; what was before is the floor's affair.
local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
if first and first[2][2] ~= '' and after(first[1], since) and not (floor and not after(first[1], floor)) then
  answer[2] = 1
end
for _, entry in ipairs(redis.call('XRANGE', log, '(' .. since, newest, 'COUNT', look)) do
  local fields = entry[2]
  local wanted = not rooms
  for n = 8, #fields, 2 do
    wanted = wanted or rooms[fields[n]]
  end
  if wanted and fields[2] ~= '' then
    take(entry)
  end
  look = look - 1
  if (look == 0 or bytes > room_for) and after(newest, entry[1]) then
    answer[3], answer[4] = entry[1], 0
    break
  end
end
return answer
