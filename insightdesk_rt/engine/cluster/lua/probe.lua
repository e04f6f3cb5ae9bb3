-- Tell a node, through its own channel, how far every log has got. Whatever came to the node's channels before this
-- message is all there was up to there: so a node in quiet rooms keeps up, and a deaf connection is noticed.
--
-- KEYS: tops (hash: namespace -> last id, '@' -> epoch). ARGV: channel, number of the probe
-- Returns {how many heard it, namespace, id, ...}.
local tops = redis.call('HGETALL', KEYS[1])
local heard = redis.call('PUBLISH', ARGV[1], '1P ' .. ARGV[2] .. '\n' .. table.concat(tops, ' '))
return {heard, unpack(tops)}
