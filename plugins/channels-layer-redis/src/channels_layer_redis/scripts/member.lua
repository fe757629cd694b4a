-- Makes or ends a membership of a process-specific channel whose process is known.
--
-- What is true is kept with the group, in m (locals of one prefix, by the time they were added) and r (prefixes); the
-- process keeps a copy, which control entries in its inbox feed. On one server both sides are changed at once (parts
-- "GP"); in a cluster the group's side ("G") comes first and says what the process's side ("P") has to carry.
-- Every change has a version, a time in microseconds, and names the one before it, so that the process sees a gap.
-- With a prefix's last member its version goes: at once where changes reach the process in their order, else a minute
-- later.
-- KEYS: p e x i (if P), r m v (if G). ARGV: verb + or -, parts, owned prefix, local, group, own capacity or '',
-- before, version. Returns 0 where nothing changed or the channel has ended, else before and version.
local call = redis.call
local verb, parts, owned, member, group, own = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local before, version = ARGV[7], ARGV[8]
local p, e, x, i, r, m, v
if parts == 'G' then
  r, m, v = KEYS[1], KEYS[2], KEYS[3]
else
  p, e, x, i, r, m, v = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
end
local is_alive = p and call('EXISTS', p) == 1
if p and verb == '+' and (not is_alive or call('ZSCORE', e, owned .. member)) then return 0 end
if r then
  local time = call('TIME')
  local ms = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
  local changed
  if verb == '+' then
    changed = call('ZADD', m, ms, member)
    call('ZADD', r, ms, owned)
  else
    changed = call('ZREM', m, member)
    if changed == 1 and call('EXISTS', m) == 0 then call('ZREM', r, owned) end
  end
  local known = call('HGET', v, owned)
  if changed == 0 then
    if p then  -- an outage may have taken the process's side alone
      if verb == '+' then
        call('ZADD', x, 0, owned .. member .. ' ' .. group)
        if own ~= '' then call('HSET', p, 'C' .. owned, own) end
      end
      return 0
    end
    -- whoever made this change may have ended before the process's side heard of it
    return known and {known, known} or 0
  end
  -- '0' says that there were no members before; '1', where the version has lapsed, is a gap
  before = known or (call('ZCARD', m) == (verb == '+' and 1 or 0) and '0' or '1')
  version = string.format('%.0f', math.max(time[1] * 1000000 + time[2], before + 1))
  if p and call('EXISTS', m) == 0 then
    call('HDEL', v, owned)
  else
    call('HSET', v, owned, version)
    call('PEXPIRE', v, call('EXISTS', r) == 1 and 604800000 or 60000)
  end
end
if is_alive then
  if verb == '+' then
    call('ZADD', x, 0, owned .. member .. ' ' .. group)
    if own ~= '' then call('HSET', p, 'C' .. owned, own) end
  else
    call('ZREM', x, owned .. member .. ' ' .. group)
  end
  call('XADD', i, '*', verb, owned .. ':' .. member .. ':' .. group .. ':' .. before .. ':' .. version, 'm', '')
end
return {before, version}
