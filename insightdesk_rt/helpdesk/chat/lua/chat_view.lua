-- A conversation and some of its messages, for who may see it.
--
-- own ARGV  id · before which message number, "" for the newest · how many · how many bytes
-- Answer's own part: messages as JSON, newest first, at least one whatever its bytes; 1 if there are older ones
local SHOWN = 20 -- what a message has more when it is shown: its time is written out, and a comma
local c = load(arg(1))
if not c or not may_see(c) then
  return forbidden()
end
local from = arg(2) == '' and '+' or '(' .. arg(2) .. '-0'
local limit, left = tonumber(arg(3)), tonumber(arg(4))
local texts, more = {}, 0
for i, entry in ipairs(redis.call('XREVRANGE', base .. '-messages:' .. c.id, from, '-', 'COUNT', limit + 1)) do
  local text = entry[2][2]
  left = left - #text - SHOWN
  if i > limit or (i > 1 and left < 0) then
    more = 1
    break
  end
  texts[i] = text
end
return answer(c, texts, more)
