-- Library: a part of a sorted set, going on after a member that may have left it meanwhile.

-- Answer at most limit members and their scores in turn, after (score, member); member '' begins at the beginning.
local function page(key, backwards, limit, score, member)
  local start = 0
  if member ~= '' then
    local there = redis.call('ZSCORE', key, member)
    if there and tonumber(there) == tonumber(score) then
      start = redis.call(backwards and 'ZREVRANK' or 'ZRANK', key, member) + 1
    elseif backwards then
      start = redis.call('ZCOUNT', key, score, '+inf')
    else
      start = redis.call('ZCOUNT', key, '-inf', score)
    end
  end
  return redis.call(backwards and 'ZREVRANGE' or 'ZRANGE', key, start, start + limit - 1, 'WITHSCORES')
end
