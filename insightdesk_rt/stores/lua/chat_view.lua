-- A conversation and some of its messages, for who may see it.
--
-- own ARGV  id · before which message number, "" for the newest · how many
-- Answer's own part: messages as JSON, newest first; one more than asked for says that there are more
local c = load(arg(1))
if not c or not may_see(c) then
  return forbidden()
end
local from = arg(2) == '' and '+' or '(' .. arg(2) .. '-0'
local texts = {}
for i, entry in ipairs(redis.call('XREVRANGE', base .. '-messages:' .. c.id, from, '-', 'COUNT', arg(3) + 1)) do
  texts[i] = entry[2][2]
end
return answer(c, texts)
