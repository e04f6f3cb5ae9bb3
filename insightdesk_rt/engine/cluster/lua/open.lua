-- Make sure that a namespace's log exists and continues beyond every id that this node has seen; find out what it lost.
--
-- KEYS: log, the log's state (hash: top, floor, epoch, fork)
-- ARGV: ends of the log that the node has seen, from the oldest to its position ('0-0': none yet), each with the id of the
--       event there, or '' if the node does not know it
-- Returns {last id, from where the node must read on ('' if that is not known), epoch, fork (see fork.lua) or ''}.
--
-- If the log does not have the node's position, it differs from the log that the node knows from some point on. Either a
-- server came back without its last second, or the node was connected to another primary, which accepted writes at the
-- same time. That point is the newest end that both logs have. The node may lack what this log has after it, and this log
-- lacks what the node has from after it.
--
-- The epoch is lost when Valkey is emptied. So a node that finds another epoch knows that, even if others have filled the
-- log again by then. The floor means that a client with an older offset may have missed events for good. A log begins with
-- a marker (an entry with an empty id), or, if an append came first, with the entry that is its floor. A log that begins
-- with anything else was trimmed by age.
local position = ARGV[#ARGV - 1]
local log, state = KEYS[1], KEYS[2]

local time = redis.call('TIME')
redis.call('HSETNX', state, 'epoch', time[1] .. '-' .. time[2])
local epoch = redis.call('HGET', state, 'epoch')

local function mark(id)
  redis.call('XADD', log, id, 'i', '', 'h', '', 'p', '')
  redis.call('HSET', state, 'top', id)
end

local function raise_floor(id)
  local floor = redis.call('HGET', state, 'floor')
  if not floor or after(id, floor) then
    redis.call('HSET', state, 'floor', id)
  end
end

local function now()
  return string.format('%.0f-0', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
end

local fork = redis.call('HGET', state, 'fork') or ''
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

local top = redis.call('HGET', state, 'top')
if not top then
  top = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1][1]
  redis.call('HSET', state, 'top', top)
end
if position == '0-0' then
  return {top, top, epoch, fork}
end
local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
local floor = redis.call('HGET', state, 'floor')
local cut_off = first and first[2][2] ~= '' and not (floor and not after(first[1], floor)) and first[1]
-- Two primaries may give out the same id for two events. So the log has an end only if its event there is the one that
-- the node knows (if it knows one), and if the log has all older ends too.
local common, parted = '', false
for n = 1, #ARGV, 2 do
  local entry = redis.call('XRANGE', log, ARGV[n], ARGV[n])[1]
  if entry and (ARGV[n + 1] == '' or ARGV[n + 1] == entry[2][2]) then
    common = ARGV[n]
  elseif not (cut_off and after(cut_off, ARGV[n])) then -- not trimmed by age, so it was lost
    parted = true
    break
  end
end
if not parted then
  return {top, position, epoch, fork}
end

-- The log lacks what this node has. Earlier offsets are useless from now on, because those of two logs cannot be compared.
if not after(top, position) then
  top = string.format('%.0f-0', position_ms + 1)
  mark(top)
end
raise_floor(top)
return {top, common, epoch, fork}
