-- A member has read everything up to a message. The mark never moves back.
--
-- own ARGV  id · message number
local c, more = find(arg(1))
if more then
  return more
end
if not c or not is_member(c) then
  return forbidden()
end
local field = staff and 'readByAgent' or 'readByCustomer'
local upto = math.min(tonumber(arg(2)), tonumber(c.last))
if upto > tonumber(c[field] or 0) then
  save(c, { [field] = upto })
  report(c, 'read', { userId = who.id, side = staff and 'agent' or 'customer', upTo = upto })
end
return answer(c)
