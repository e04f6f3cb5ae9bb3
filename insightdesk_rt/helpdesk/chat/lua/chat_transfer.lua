-- Hand a conversation to another agent, who has it at once, or to a team, where it waits in its old place. A team without
-- a connected agent is a conflict, like an agent who is not connected, because nobody could take the conversation there.
--
-- own ARGV  id · agentId or "" · teamId or "" · note or ""
local c, more = find(arg(1))
if more then
  return more
end
local request = cjson.encode({ who.id, arg(2), arg(3), arg(4) })
if c and staff and c.moved == request then
  return answer(c) -- a repeat, by an agent who may not see it any more
end
if not c or not staff or not may_see(c) then
  return forbidden()
end
if c.state == 'active' and c.agentId ~= who.id and who.role ~= 'admin' then
  return forbidden()
end
if c.state == 'closed' then
  return conflict(c)
end
local agent, team = arg(2), arg(3) ~= '' and arg(3) or c.teamId
if team == c.teamId and ((agent ~= '' and agent == c.agentId) or (agent == '' and c.state == 'waiting')) then
  return answer(c)
end
local name
if agent ~= '' then
  local role
  role, name = unpack(redis.call('HMGET', person(agent), 'role', 'name'))
  if online(agent) ~= '1' or (role ~= 'agent' and role ~= 'admin') then
    return conflict(c, 'absent')
  end
end
if agent == '' and team ~= c.teamId and agents_here(team) == 0 then
  return conflict(c, 'nobody')
end
local from, from_name = c.agentId, c.agentName
if c.state == 'waiting' then
  dequeue(c)
else
  deactivate(c)
end
if team ~= c.teamId then
  save(c, { teamOffset = top() })
end
save(c, { teamId = team, note = arg(4) })
if agent ~= '' then
  activate(c, agent, name)
else
  enqueue(c)
end
save(c, { moved = request })
report(c, 'transferred', { fromId = from, fromName = from_name, note = arg(4), state = c.state })
return answer(c)
