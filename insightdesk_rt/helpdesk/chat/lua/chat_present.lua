-- A user connected to the chat or left it: show that in their conversations, and start or stop deadlines.
--
-- The script reads the current presence instead of taking it as an argument, because of two callers the later one may
-- have the older information.
-- own ARGV  UserKey
-- Answer {id, records}…
local user, found = arg(1), {}
local here = online(user)
for _, id in ipairs(redis.call('ZRANGE', base .. '-open:' .. user, 0, -1)) do
  local c = load(id)
  local side = c and ((CUSTOMER .. c.customerId == user and 'customer') or (c.agentId == user and 'agent'))
  if side and c[side .. 'Online'] ~= here then
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
    found[#found + 1] = { id, pending_events(base, id) }
  end
end
return found
