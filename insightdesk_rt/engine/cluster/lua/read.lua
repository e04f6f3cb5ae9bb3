-- Return the next part of a namespace's log after an offset, for all rooms. A node that catches up reads it.
--
-- KEYS: log, the log's state (hash: top, floor)
-- ARGV: offset, entries to look at, bytes to return
-- Returns {is something missing?, looked at up to, end reached?, then id, header, payload of each entry}.
local since = ARGV[1]
local look, room_for = tonumber(ARGV[2]), tonumber(ARGV[3])
local log = KEYS[1]

local top, floor = unpack(redis.call('HMGET', KEYS[2], 'top', 'floor'))
top = top or '0-0'
local answer = { 0, top, 1 }
local bytes = 0
if not after(top, since) then
  return answer
end

-- A log that was not trimmed begins with a marker, or with the floor itself. The floor stands for what was before.
local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
if first and first[2][2] ~= '' and after(first[1], since) and not (floor and not after(first[1], floor)) then
  answer[1] = 1
end
for _, entry in ipairs(redis.call('XRANGE', log, '(' .. since, top, 'COUNT', look)) do
  local fields = entry[2]
  if fields[2] ~= '' then
    answer[#answer + 1] = entry[1]
    answer[#answer + 1] = fields[4]
    answer[#answer + 1] = fields[6]
    bytes = bytes + #fields[6]
  end
  look = look - 1
  if (look == 0 or bytes > room_for) and after(top, entry[1]) then
    answer[2], answer[3] = entry[1], 0
    break
  end
end
return answer
