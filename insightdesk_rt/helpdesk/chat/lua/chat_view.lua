-- Return a conversation and some of its messages to a user who may see it.
--
-- own ARGV  id · number before which the messages end, "" for the newest · limit · limit in bytes
-- The answer also has: messages as JSON, newest first, at least one whatever its size; 1 if there are older ones
local SHOWN = 20 -- bytes that a message gains in the answer: its time as text, and a comma
local c, more = find(arg(1))
if more then
  return more
end
if not c or not may_see(c) then
  return forbidden()
end
local from = arg(2) == '' and '+' or '(' .. arg(2) .. '-0'
local limit, left = tonumber(arg(3)), tonumber(arg(4))
local texts, older = {}, 0
for i, entry in ipairs(redis.call('XREVRANGE', own('-messages:' .. c.id), from, '-', 'COUNT', limit + 1)) do
  local text = entry[2][2]
  left = left - #text - SHOWN
  if i > limit or (i > 1 and left < 0) then
    older = 1
    break
  end
  texts[i] = text
end
return answer(c, texts, older)
