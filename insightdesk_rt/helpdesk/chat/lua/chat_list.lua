-- Return conversations in a state: waiting and active ones oldest first, closed ones newest first.
--
-- own ARGV  waiting, active or closed · limit · score and id after which the page starts, or "" and ""
-- Answer {score, row}…
local found, those = {}, page(base .. '-' .. arg(1), arg(1) == 'closed', arg(2), arg(3), arg(4))
for i = 1, #those, 2 do
  local c = load(those[i])
  if c then
    found[#found + 1] = { those[i + 1], row(c) }
  end
end
return found
