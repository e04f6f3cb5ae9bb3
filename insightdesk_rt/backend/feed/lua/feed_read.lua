-- Return entries of the feed after an offset.
--
-- KEYS  log · state, as in feed_append.lua
-- ARGV  offset after which to read · most entries · most bytes of texts (the first entry comes whatever its size)
-- Answer {1 if nothing is missing between the offset and the first entry, else 0; offset to read on from;
--       id, type, text of each entry in turn}
--
-- A reader's offset is the id of an entry, or the floor, or 0-0. If the entry is not there and lies above the floor, Valkey
-- has lost it, and may have lost others.
local log, state, after = KEYS[1], KEYS[2], ARGV[1]
local top, floor = unpack(redis.call('HMGET', state, 'top', 'floor'))
top, floor = top or '0-0', floor or '0-0'

local function less(a, b)
  local a_ms, a_seq = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)-(%d+)$')
  a_ms, a_seq, b_ms, b_seq = tonumber(a_ms), tonumber(a_seq), tonumber(b_ms), tonumber(b_seq)
  return a_ms < b_ms or (a_ms == b_ms and a_seq < b_seq)
end

local complete, from = 1, after
if less(after, floor) or less(top, after) then
  complete, from = 0, floor
elseif after ~= floor and after ~= '0-0' and #redis.call('XRANGE', log, after, after) == 0 then
  local before = redis.call('XREVRANGE', log, '(' .. after, '-', 'COUNT', 1)[1]
  complete, from = 0, before and before[1] or floor
end

local found, left = { complete, from }, tonumber(ARGV[3])
for i, entry in ipairs(redis.call('XRANGE', log, '(' .. from, '+', 'COUNT', ARGV[2])) do
  local id, kind, text = entry[1], entry[2][2], entry[2][4]
  left = left - #text
  if i > 1 and left < 0 then
    break
  end
  found[2] = id
  found[#found + 1], found[#found + 2], found[#found + 3] = id, kind, text
end
return found
