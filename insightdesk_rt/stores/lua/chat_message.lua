-- A member says something. The same clientId again is answered the same and says nothing, also after the end.
--
-- own ARGV  id · clientId · body · most messages of a conversation
-- Answer {ok, number, time, records}: the conversation itself is neither read nor answered, this is the hot one
local c = { id = arg(1), key = base .. ':' .. arg(1) }
c.state, c.customerId, c.agentId, c.agentName, c.last =
  unpack(redis.call('HMGET', c.key, 'state', 'customerId', 'agentId', 'agentName', 'last'))
if not c.state or not is_member(c) then
  return forbidden()
end
local known = redis.call('HGET', base .. '-sent:' .. c.id, who.id .. ':' .. arg(2))
if known then
  local kept = redis.call('XRANGE', base .. '-messages:' .. c.id, known .. '-0', known .. '-0')
  return { 'ok', tonumber(known), cjson.decode(kept[1][2][2]).at, untold(base, c.id) }
end
if c.state == 'closed' then
  return conflict(c)
end
if tonumber(c.last) >= tonumber(arg(4)) then
  return conflict(c, 'full')
end
local number, text = say(c, arg(2), arg(3))
tell(base, c.id, c.key, 'message', text, now)
return { 'ok', number, now, untold(base, c.id) }
