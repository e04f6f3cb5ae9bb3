-- Make sure that a namespace's log exists and goes on beyond every id this node has seen; find out what it lost.
--
-- KEYS: log, tops (hash: namespace -> last id, and '@' -> epoch), floors (hash: namespace -> id)
-- ARGV: namespace, the node's position ('0-0': none yet)
-- Returns {last id, where the node must read on from, epoch}.
--
-- The epoch is lost when Valkey is emptied: a node that finds another one knows of it, even if others have filled the
-- logs again by then. A floor says: who holds an offset below it may miss something for good. A log begins with a marker
-- (an entry with an empty id), or, if an append came first, with the entry that is its floor; a log that begins with
-- anything else was cut off by age.
local namespace, position = ARGV[1], ARGV[2]
local log = KEYS[1]

local time = redis.call('TIME')
redis.call('HSETNX', KEYS[2], '@', time[1] .. '-' .. time[2])
local epoch = redis.call('HGET', KEYS[2], '@')

local function parts(id)
  local ms, seq = id:match('^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end

local function after(a, b)
  local am, as = parts(a)
  local bm, bs = parts(b)
  return am > bm or (am == bm and as > bs)
end

local function mark(id)
  redis.call('XADD', log, id, 'i', '', 'h', '', 'p', '')
  redis.call('HSET', KEYS[2], namespace, id)
end

local function raise_floor(id)
  local floor = redis.call('HGET', KEYS[3], namespace)
  if not floor or after(id, floor) then
    redis.call('HSET', KEYS[3], namespace, id)
  end
end

local function now()
  return string.format('%.0f-0', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
end

local position_ms = parts(position)
if redis.call('EXISTS', log) == 0 then
  local id = now()
  if not after(id, position) then
    id = string.format('%.0f-0', position_ms + 1)
  end
  mark(id)
  raise_floor(position == '0-0' and id or position)
  return {id, id, epoch}
end

local top = redis.call('HGET', KEYS[2], namespace)
if not top then
  top = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1][1]
  redis.call('HSET', KEYS[2], namespace, top)
end
if position == '0-0' then
  return {top, top, epoch}
end
if #redis.call('XRANGE', log, position, position) == 1 then
  return {top, position, epoch}
end
local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
local floor = redis.call('HGET', KEYS[3], namespace)
if first and first[2][2] ~= '' and after(first[1], position) and not (floor and not after(first[1], floor)) then
  return {top, position, epoch} -- cut off by age, not lost
end

-- The log has not got what this node has: it came back older than it was.
raise_floor(position)
local older = redis.call('XREVRANGE', log, position, '-', 'COUNT', 1)[1]
if not after(top, position) then
  top = string.format('%.0f-0', position_ms + 1)
  mark(top)
end
return {top, older and older[1] or '0-0', epoch}
