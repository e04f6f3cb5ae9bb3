-- Load the rules of a kind.
-- KEYS: table, untils, versions. ARGV: kind.
-- Returns the version, the memory's name, and a flat list of ids and texts.
drop_expired(KEYS[1], KEYS[2])
local version = redis.call('HGET', KEYS[3], ARGV[1]) or '0'
return {tonumber(version), redis.call('HGET', KEYS[3], '@') or '', redis.call('HGETALL', KEYS[1])}
