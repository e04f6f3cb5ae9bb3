-- A member sends a message. A repeat under the same clientId gets the same answer and stores nothing, even after the
-- conversation was closed. Another text under the same clientId is a conflict.
--
-- own ARGV  id · clientId · body · most messages of a conversation · `once` of its event · most bytes of a conversation
--           · most bytes of a customer in a day · "backend" if a back end speaks, which is no member, or ""
-- Answer {ok, number, time, records}. hot: it neither reads nor returns the whole conversation
local c = { id = arg(1), key = own(':' .. arg(1)) }
c.state, c.customerId, c.agentId, c.agentName, c.last, c.bytes =
  unpack(redis.call('HMGET', c.key, 'state', 'customerId', 'agentId', 'agentName', 'last', 'bytes'))
if not c.state or not (is_member(c) or (staff and arg(8) == 'backend')) then
  return forbidden()
end
local known = redis.call('HGET', own('-sent:' .. c.id), sent_as(arg(2)))
if known then
  local kept = cjson.decode(redis.call('XRANGE', own('-messages:' .. c.id), known .. '-0', known .. '-0')[1][2][2])
  if kept.text ~= cjson.decode('{' .. arg(3)).text then
    return conflict({}, 'used')
  end
  return { 'ok', tonumber(known), kept.at, records(c) }
end
if c.state == 'closed' then
  return conflict(c)
end
if tonumber(c.last) >= tonumber(arg(4)) or tonumber(c.bytes or 0) + #arg(3) > tonumber(arg(6)) then
  return conflict(c, 'full')
end
local MESSAGE = 300 -- bytes: overhead of a message besides its body, with its clientId
local refused = spend(MESSAGE + #arg(3), tonumber(arg(7)))
if refused then
  return refused
end
-- The agent has not read what a bot answers.
local number, text = store_message(c, arg(2), arg(3), is_member(c))
add_pending_event(own('-untold'), own('-untold:' .. c.id), c.key, c.id, 'message', text, now, arg(5))
return { 'ok', number, now, records(c) }
