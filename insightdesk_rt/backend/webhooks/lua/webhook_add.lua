-- Store a new webhook.
--
-- KEYS  webhooks (set of ids) · webhook (hash, see store.py)
-- ARGV  id · most webhooks · fields and values in turn
-- Answer 1, or 0 if there are as many as there may be
if redis.call('SCARD', KEYS[1]) >= tonumber(ARGV[2]) then
  return 0
end
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[2], unpack(ARGV, 3))
return 1
