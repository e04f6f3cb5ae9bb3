-- The conversations of a state: those that wait or are active from the oldest, closed ones from the newest.
--
-- own ARGV  waiting, active or closed · at most so many · score and id to go on after, or "" and ""
-- Answer {score, row}…
local found, those = {}, page(base .. '-' .. arg(1), arg(1) == 'closed', arg(2), arg(3), arg(4))
for i = 1, #those, 2 do
  local c = load(those[i])
  if c then
    found[#found + 1] = { those[i + 1], row(c) }
  end
end
return found
