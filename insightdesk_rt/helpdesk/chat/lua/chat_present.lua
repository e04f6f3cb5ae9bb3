-- A user connected to the chat or left it: show that in a conversation of theirs, and start or stop its deadlines.
--
-- The script reads the current presence instead of taking it as an argument, because of two callers the later one may
-- have the older information.
-- own ARGV  id · UserKey
-- Answer records of pending events
local user = arg(2)
local c, more = find(arg(1))
if more then
  return more
end
if not c or not redis.call('ZSCORE', open_of(user), c.id) then
  return {} -- it has been closed, or another agent has it
end
local here = online(user)
local side = (CUSTOMER .. c.customerId == user and 'customer') or (c.agentId == user and 'agent')
if not side or c[side .. 'Online'] == here then
  return {}
end
save(c, { [side .. 'Online'] = here })
local clock, patience, runs = 'lost', LOST, c.state == 'active'
if side == 'customer' then
  clock, patience, runs = 'gone', GONE, c.state == 'waiting' and c.via ~= 'backend'
end
if here == '1' then
  cancel(clock, c)
elseif runs then
  schedule(clock, c, now + patience)
end
report(c, 'present', { userId = c[side .. 'Id'], side = side, online = here == '1' })
return records(c)
