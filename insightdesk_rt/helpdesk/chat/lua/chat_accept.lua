-- An agent takes a waiting conversation. Exactly one agent gets it; a repeat by that agent gets the same answer.
--
-- own ARGV  id
local c, more = find(arg(1))
if more then
  return more
end
if not c or not staff or not may_see(c) then
  return forbidden()
end
if c.state == 'active' and c.agentId == who.id then
  return answer(c)
end
if c.state ~= 'waiting' then
  return conflict(c)
end
dequeue(c)
activate(c, who.id, who.name)
report(c, 'accepted', {})
return answer(c)
