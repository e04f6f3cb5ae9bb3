-- End a conversation. Its customer, its agent and admins may; while it waits, any agent who may take it. Idempotent.
--
-- own ARGV  id
local c, more = find(arg(1))
if more then
  return more
end
if not c or not may_see(c) then
  return forbidden()
end
if staff and c.state == 'active' and c.agentId ~= who.id and who.role ~= 'admin' then
  return forbidden()
end
if c.state ~= 'closed' then
  close(c, staff and 'agent' or 'customer')
end
return answer(c)
