-- Change one ticket (after pending_events.lua). One step, so that two changes at once get two versions and the counts
-- always add up.
--
-- <base>:<ticketId>  hash: each field as JSON text; version, createdAt, updatedAt (ms), seq; offset and told: offset and
--                    seq of the last published event; grants (below). at:<field>: when the back end changed a field, in
--                    Unix microseconds, if it ever sent a time; gone: the newest of these times of a deleted ticket
-- <base>-counts      hash: total, unsolved, unassigned, status:<status>, priority:<priority>
-- <base>-comment:<ticketId>:<id>  digest of a comment that is known
-- <base>-change:<ticketId>:<id>   digest of another change that its caller gave an id
--
-- KEYS  the ticket · counts · the digest of the comment or change, if it has an id · the log's state (hash: top, its last
--       id) · index of pending events · the ticket's list of them
-- ARGV  "put", "delete" or "comment" · ticketId · by · comment · id by which a repeat is known, or ""
--       · `once` of its event (pending_events.lua), or "" · when the back end did it, in Unix microseconds, or ""
--       · the version that the ticket must have, or ""
--       · for each field: name, default, given ("" if not)
--       Values, `by` and `comment` are JSON texts ("null" for none); values are compared as texts.
-- Answer {outcome, version, offset of the last published event, records of pending events}
--       outcome: 2 created · 1 done · 0 nothing to do · -1 there is no such ticket · -2 another change has this id
--                · -3 older than what is known · -4 the ticket has another version
--
-- The version of a deleted ticket stays for a day, so that a ticket that comes back continues its versions.
local key, counts, digest_key, state, index, list = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local op, id, by, comment, known_id, once = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local at, expected = tonumber(ARGV[7]), tonumber(ARGV[8])
local KEPT_S = 86400
local SETTLED = { ['"solved"'] = true, ['"closed"'] = true }
local now = now_ms()

local was = {}
local flat = redis.call('HGETALL', key)
for i = 1, #flat, 2 do
  was[flat[i]] = flat[i + 1]
end
local exists = was.subject ~= nil

-- A time in the future counts as now. Otherwise one job with a wrong clock would make all later changes too old.
local now_us = now * 1000 + 999
at = at and math.min(at, now_us)
local function is_older(than)
  return at ~= nil and than ~= nil and at < tonumber(than)
end
-- The newest time of all fields, or of the ticket before it was deleted; nil if the back end never sent one.
local newest = tonumber(was.gone)

-- A job of the back end may come late. Each field has its own time, since a change of the status says nothing about an
-- assignee that was changed before. Of two changes with the same time the one that arrives later counts.
local names, before, after, changes, fields, stamped, taken, late = {}, {}, {}, {}, {}, {}, 0, 0
local asked = { op, ARGV[7], ARGV[8] }
for i = 9, #ARGV, 3 do
  local name, default, given = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if known_id ~= '' and given ~= '' then
    asked[#asked + 1] = name .. ':' .. given
  end
  local changed = tonumber(was['at:' .. name])
  newest = changed and math.max(newest or changed, changed) or newest
  if given ~= '' and is_older(changed) then
    given, late = '', late + 1
  elseif given ~= '' and (at or changed) then
    stamped[#stamped + 1] = name -- without a time it counts as a change of now, against jobs that come late
  end
  taken = taken + (given ~= '' and 1 or 0)
  names[#names + 1] = name
  before[name] = was[name] or default
  after[name] = given ~= '' and given or before[name]
  fields[#fields + 1] = string.format('"%s":%s', name, after[name])
  if before[name] ~= after[name] then
    changes[#changes + 1] = string.format('"%s":[%s,%s]', name, before[name], after[name])
  end
end

local function answer(outcome, version)
  return { outcome, tonumber(version or 0), was.offset or '', pending_events(list) }
end

-- Numbers for the dashboard, in one hash. Priorities and "unassigned" count open work only.
local function count(ticket, step)
  local function add(name)
    redis.call('HINCRBY', counts, name, step)
  end
  add('total')
  add('status:' .. string.sub(ticket.status, 2, -2))
  if not SETTLED[ticket.status] then
    add('unsolved')
    add('priority:' .. string.sub(ticket.priority, 2, -2))
    if ticket.assigneeId == 'null' then
      add('unassigned')
    end
  end
end

local function add_ticket_event(kind, version, created)
  add_pending_event(index, list, key, id, kind, string.format(
    '{"version":%d,"at":%.0f,"createdAt":%.0f,"ticket":{%s},"changes":{%s},"by":%s,"comment":%s}',
    version, now, created, table.concat(fields, ','), table.concat(changes, ','), by, comment), now,
    once ~= '' and once or nil)
end

-- Grants: to whom the ticket has been open since when, without a break. JSON of name → "<seq of the change> <offset>".
-- Names are life (users who may read all tickets), agents (while it has no team), team:<id>; for customers user:<id> where
-- ids are shared, customer:<id> where they are separate. The offset is the end of the log at the change; once the change
-- is published, its own offset (ticket_offset.lua). Earlier events are not for them.
local function opened_to(ticket, what)
  local to = { life = what }
  local team = cjson.decode(ticket.teamId)
  to[team == cjson.null and 'agents' or 'team:' .. team] = what
  for _, person in ipairs(cjson.decode(ticket.watchers)) do
    to['user:' .. person] = what
  end
  for _, person in ipairs(cjson.decode(ticket.customerWatchers)) do
    to['customer:' .. person] = what
  end
  local requester = cjson.decode(ticket.requesterId)
  if requester ~= cjson.null then
    to['user:' .. requester], to['customer:' .. requester] = what, what
  end
  return to
end

local function grant()
  local seq = redis.call('HGET', key, 'seq')
  local now_on = opened_to(after, seq .. ' ' .. (redis.call('HGET', state, 'top') or '0-0'))
  local before_it = {}
  if exists then
    before_it = was.grants and cjson.decode(was.grants)
      or opened_to(before, '0 ' .. string.format('%.0f-0', tonumber(was.createdAt)))
  end
  for name in pairs(now_on) do
    -- A team's agents could read it while it had no team.
    local of_none = string.sub(name, 1, 5) == 'team:' and before_it.agents or nil
    now_on[name] = before_it[name] or of_none or now_on[name]
  end
  if now_on.agents then
    for name, since in pairs(before_it) do
      if string.sub(name, 1, 5) == 'team:' then
        now_on[name] = since -- they keep their access
      end
    end
  end
  redis.call('HSET', key, 'grants', cjson.encode(now_on))
end

if op == 'comment' then
  local digest = redis.sha1hex(comment)
  local first = known_id ~= '' and redis.call('GET', digest_key)
  if first then -- also if the ticket was deleted meanwhile; '1': stored by an older version of this server
    return answer((first == digest or first == '1') and 0 or -2, was.version)
  end
  if not exists then
    return answer(-1, 0)
  end
  if known_id ~= '' then
    redis.call('SET', digest_key, digest, 'EX', KEPT_S)
  end
  add_ticket_event('commented', was.version, was.createdAt)
  return answer(1, was.version)
end

-- A change with an id of its caller's is done once: a repeat, which may come after later changes, has no effect.
local digest = known_id ~= '' and redis.sha1hex(table.concat(asked, '\n'))
local known = digest and redis.call('GET', digest_key)
local ABSENT = ' absent' -- behind the digest of a deletion that found no ticket, and must not delete a later one
if known then
  local outcomes = { [digest] = 0, [digest .. ABSENT] = -1 }
  return answer(outcomes[known] or -2, was.version)
end
local function remember(how)
  if digest then
    redis.call('SET', digest_key, digest .. (how or ''), 'EX', KEPT_S)
  end
end

if op == 'delete' then
  if not exists then
    remember(ABSENT)
    return answer(-1, was.version)
  end
  if is_older(newest) then
    return answer(-3, was.version)
  end
  if expected and expected ~= tonumber(was.version) then
    return answer(-4, was.version)
  end
  local version = was.version + 1
  count(before, -1)
  redis.call('DEL', key)
  redis.call('HSET', key, 'version', version, 'seq', was.seq)
  if at or newest then
    redis.call('HSET', key, 'gone', string.format('%.0f', math.max(newest or at, at or now_us)))
  end
  redis.call('EXPIRE', key, KEPT_S)
  add_ticket_event('deleted', version, was.createdAt)
  -- A host's own check may let users read a ticket that does not exist. They get nothing from before its deletion.
  local ended = redis.call('HGET', key, 'seq') .. ' ' .. (redis.call('HGET', state, 'top') or '0-0')
  redis.call('HSET', key, 'grants', cjson.encode({ life = ended }))
  remember()
  return answer(1, version)
end

if is_older(was.gone) or (late > 0 and taken == 0) then
  return answer(-3, was.version)
end
local stays = exists and #changes == 0 -- also a repeat after a lost answer, whatever version it expects
if expected and not stays and expected ~= (exists and tonumber(was.version) or 0) then
  return answer(-4, exists and was.version or 0)
end
for _, name in ipairs(stamped) do
  redis.call('HSET', key, 'at:' .. name, string.format('%.0f', at or now_us))
end
remember()
if stays then
  return answer(0, was.version)
end
local version = (was.version or 0) + 1
local created = was.createdAt or now
if exists then
  count(before, -1)
end
count(after, 1)
redis.call('HSET', key, 'version', version, 'createdAt', string.format('%.0f', created),
  'updatedAt', string.format('%.0f', now))
for _, name in ipairs(names) do
  redis.call('HSET', key, name, after[name])
end
redis.call('PERSIST', key)
add_ticket_event(exists and 'updated' or 'created', version, created)
if not exists or not was.grants or before.teamId ~= after.teamId or before.requesterId ~= after.requesterId
  or before.watchers ~= after.watchers or before.customerWatchers ~= after.customerWatchers then
  grant()
end
return answer(exists and 1 or 2, version)
