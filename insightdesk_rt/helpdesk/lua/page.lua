-- Library: one page of a sorted set. The page starts after a member, which may have left the set in the meantime.

-- Return at most `limit` members and their scores in turn, those after (score, member). '' as member: from the start.
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
