-- Return the open conversations of the asking user: a customer's own, or those that an agent has taken.
--
-- own ARGV  limit
local found = {}
for _, id in ipairs(redis.call('ZRANGE', base .. '-open:' .. who.key, 0, arg(1) - 1)) do
  local c = load(id)
  if c and is_member(c) then
    found[#found + 1] = row(c)
  end
end
return found
