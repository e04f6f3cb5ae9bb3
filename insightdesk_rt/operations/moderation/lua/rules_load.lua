-- KEYS: table, untils, versions. ARGV: kind. Answer the version, the memory's name, and id and text of each in turn.
drop_ended(KEYS[1], KEYS[2])
local version = redis.call('HGET', KEYS[3], ARGV[1]) or '0'
return {tonumber(version), redis.call('HGET', KEYS[3], '@') or '', redis.call('HGETALL', KEYS[1])}
