-- The customer rates a closed conversation, once. A repeat of the same rating has no effect.
--
-- own ARGV  id · score · comment · most bytes of a customer in a day
local c, more = find(arg(1))
if more then
  return more
end
if not c or staff or not is_member(c) then
  return forbidden()
end
if c.state ~= 'closed' then
  return conflict(c)
end
if c.score then
  if c.score ~= arg(2) or c.comment ~= arg(3) then
    return conflict(c, 'rated')
  end
  return answer(c)
end
local refused = spend(#arg(3), tonumber(arg(4)))
if refused then
  return refused
end
save(c, { score = arg(2), comment = arg(3) })
report(c, 'rated', { score = tonumber(arg(2)), comment = arg(3) })
return answer(c)
