-- Store an acknowledged message again if Valkey lost it. A stored message stays as it is.
--
-- Several nodes may send the same messages, in any order. A stream only grows at its end, so to insert a message before
-- others, those are written again after it. If its number was given to another message meanwhile, it gets the next one.
-- The asking user is the author.
-- own ARGV  id · number · time in ms · clientId · body
-- Answer 1 if it was lost
local c = load(arg(1))
local sent = own('-sent:' .. arg(1))
if not c or redis.call('HEXISTS', sent, sent_as(arg(4))) == 1 then
  return 0
end
local messages, number, last = own('-messages:' .. c.id), tonumber(arg(2)), tonumber(c.last)
local function place(n)
  return string.format('%.0f-0', n)
end
if number <= last and #redis.call('XRANGE', messages, place(number), place(number)) > 0 then
  number = last + 1
end
local entry = string.format('{"id":%.0f,"at":%s,', number, arg(3)) .. arg(5)
local newest = redis.call('XREVRANGE', messages, '+', '-', 'COUNT', 1)[1]
if not newest or number > tonumber(string.match(newest[1], '^%d+')) then
  redis.call('XADD', messages, place(number), 'm', entry)
else
  local all = redis.call('XRANGE', messages, '-', '+')
  redis.call('DEL', messages)
  local done = false
  for _, each in ipairs(all) do
    if not done and tonumber(string.match(each[1], '^%d+')) > number then
      redis.call('XADD', messages, place(number), 'm', entry)
      done = true
    end
    redis.call('XADD', messages, each[1], unpack(each[2]))
  end
  if not done then
    redis.call('XADD', messages, place(number), 'm', entry)
  end
end
redis.call('HINCRBY', c.key, 'bytes', #entry)
redis.call('HSET', sent, sent_as(arg(4)), string.format('%.0f', number))
local side = staff and 'readByAgent' or 'readByCustomer'
save(c, {
  last = math.max(number, last), lastAt = math.max(tonumber(c.lastAt or 0), tonumber(arg(3))),
  [side] = math.max(number, tonumber(c[side] or 0)),
})
if c.state == 'closed' then
  redis.call('EXPIRE', messages, KEPT_S)
  redis.call('EXPIRE', sent, KEPT_S)
end
return 1
