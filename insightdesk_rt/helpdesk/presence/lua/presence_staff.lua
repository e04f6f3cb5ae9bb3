-- Return agents and admins with these statuses, status by status, those who have it longest first (after page.lua).
--
-- KEYS  agents: one per status, in order
-- ARGV  limit · status, score and userId after which the page starts, or "", "", "" · statuses, in order
-- Answer {status, score, userId}…
local left, found = tonumber(ARGV[1]), {}
local begun = ARGV[2] == ''
for i, agents in ipairs(KEYS) do
  local status = ARGV[4 + i]
  local here = status == ARGV[2]
  begun = begun or here
  if begun and left > 0 then
    local those = page(agents, false, left, ARGV[3], here and ARGV[4] or '')
    for n = 1, #those, 2 do
      found[#found + 1] = { status, those[n + 1], those[n] }
      left = left - 1
    end
  end
end
return found
