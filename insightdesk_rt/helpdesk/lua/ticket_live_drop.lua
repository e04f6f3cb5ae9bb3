-- Remove the entries of a lost node from some tickets. Safe to repeat after a crash half-way: the tickets stay in the
-- node's set until the caller has published the change to their viewers.
--
-- KEYS  claim: only one caller works at a time · hashes of viewers and typing users, one per ticket
-- ARGV  "<node>/" · the caller · milliseconds after which another caller may take over
-- Answer: per ticket, the users whose typing was removed; nil if another caller holds the claim
local by = redis.call('GET', KEYS[1])
if by and by ~= ARGV[2] then
  return nil
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
local dropped = {}
for i = 2, #KEYS do
  local key, typing = KEYS[i], {}
  for _, field in ipairs(redis.call('HKEYS', key)) do
    if string.sub(field, 1, #ARGV[1]) == ARGV[1] then
      redis.call('HDEL', key, field)
      typing[#typing + 1] = string.match(field, '/t/(.*)$')
    end
  end
  dropped[i - 1] = typing
end
return dropped
