-- Make sure that a namespace's log exists and goes on beyond every id this node has seen; find out what it lost.
--
-- KEYS: log, tops (hash: namespace -> last id, and '@' -> epoch), floors (hash: namespace -> id)
-- ARGV: namespace, then ends that the node has seen the log have, from the oldest to its position ('0-0': none yet), each
--       with the id of the event there, or '' if the node does not know it
-- Returns {last id, where the node must read on from ('': nobody knows), epoch, fork (see fork.lua) or ''}.
--
-- Where the log has not got the node's position, it is another one from some point on: a server came back without its
-- last second, or the node comes from another primary, which took writes beside this one. That point is the newest end
-- that both have had. What lies behind it here the node may not have; what lies behind it there this log has not.
--
-- The epoch is lost when Valkey is emptied: a node that finds another one knows of it, even if others have filled the
-- logs again by then. A floor says: who holds an offset below it may miss something for good. A log begins with a marker
-- (an entry with an empty id), or, if an append came first, with the entry that is its floor; a log that begins with
-- anything else was cut off by age.
local namespace, position = ARGV[1], ARGV[#ARGV - 1]
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

local fork = redis.call('HGET', KEYS[2], '#') or ''
local position_ms = parts(position)
if redis.call('EXISTS', log) == 0 then
  local id = now()
  if not after(id, position) then
    id = string.format('%.0f-0', position_ms + 1)
  end
  mark(id)
  raise_floor(position == '0-0' and id or position)
  return {id, id, epoch, fork}
end

local top = redis.call('HGET', KEYS[2], namespace)
if not top then
  top = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1][1]
  redis.call('HSET', KEYS[2], namespace, top)
end
if position == '0-0' then
  return {top, top, epoch, fork}
end
local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
local floor = redis.call('HGET', KEYS[3], namespace)
local cut_off = first and first[2][2] ~= '' and not (floor and not after(first[1], floor)) and first[1]
-- Two primaries may give out the same id for two events. So an end is the log's only if the event is the one that the
-- node knows there, if it knows it, and if the log has all older ends too.
local common, parted = '', false
for n = 2, #ARGV, 2 do
  local entry = redis.call('XRANGE', log, ARGV[n], ARGV[n])[1]
  if entry and (ARGV[n + 1] == '' or ARGV[n + 1] == entry[2][2]) then
    common = ARGV[n]
  elseif not (cut_off and after(cut_off, ARGV[n])) then -- by age, that would be, and not lost
    parted = true
    break
  end
end
if not parted then
  return {top, position, epoch, fork}
end

-- The log has not got what this node has. From now on offsets of before say nothing: of two logs they cannot be compared.
if not after(top, position) then
  top = string.format('%.0f-0', position_ms + 1)
  mark(top)
end
raise_floor(top)
return {top, common, epoch, fork}
