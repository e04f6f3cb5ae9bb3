-- Take off what a node has put down on some tickets: the node is gone. Safe to run again after dying half-way, since
-- the tickets stay in the node's set until the caller has told their watchers.
--
-- KEYS  who is at it: one caller at a time · hashes of who is there, one per ticket
-- ARGV  "<node>/" · the caller · milliseconds until another one may go on in its place
-- Answer: per ticket, the users whose typing was taken off; nil if another caller is at it
local by = redis.call('GET', KEYS[1])
if by and by ~= ARGV[2] then
  return nil
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
local dropped = {}
for i = 2, #KEYS do
  local key, typists = KEYS[i], {}
  for _, field in ipairs(redis.call('HKEYS', key)) do
    if string.sub(field, 1, #ARGV[1]) == ARGV[1] then
      redis.call('HDEL', key, field)
      typists[#typists + 1] = string.match(field, '/t/(.*)$')
    end
  end
  dropped[i - 1] = typists
end
return dropped
