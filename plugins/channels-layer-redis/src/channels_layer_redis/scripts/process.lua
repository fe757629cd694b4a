-- A process's own keys: itself (p, which exists until somebody ends it; z is when its lease does), inbox (i), memberships
-- (x), ended channels (e), the channels it may hold leases on (h), and that it was taken for dead (u).
--
-- KEYS: p i x e h u. ARGV: verb, lease (ms), then for "open" kind, label and now; for "renew" load and counters; for "end"
-- "lapsed" where it is only to be done if the lease ran out.
--   open    takes the lease; returns now (ms)
--   renew   starts it anew; returns now, 0 where nothing is known of it, -1 where it was taken for dead
--   end     gives it up; returns its memberships, the channels it read, and how many messages waited; 0 if not done
--   forget  deletes what is left
--   reset   as new but alive: for flush
local call = redis.call
local p, i, x, e, h = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local verb, lease = ARGV[1], ARGV[2]
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local long = string.format('%.0f', math.max(600000, lease * 20))
if verb == 'open' then
  local opened = ARGV[5] ~= '' and ARGV[5] or string.format('%.0f', now)
  local is_new = call('EXISTS', p) == 0
  call('HSET', p, 'k', ARGV[3], 'l', ARGV[4], 'o', opened)
  if is_new then  -- taken anew after an outage, there may be an inbox already
    local found, start, is_over = {n = 0, b = 0}, '-', false
    while not is_over do
      local entries = call('XRANGE', i, start, '+', 'COUNT', 500)
      is_over = #entries < 500
      for _, entry in ipairs(entries) do
        start = '(' .. entry[1]
        local prefix, size, own = string.match(entry[2][2], '^([^:!]*!)[^:]*:(%d+):(x?)')
        if prefix and (entry[2][1] == '=' or entry[2][1] == '*') then
          local field = own == 'x' and 'c' .. prefix or 'n'
          found[field] = (found[field] or 0) + 1
          if field == 'n' then found.b = found.b + size end
        end
      end
    end
    for field, number in pairs(found) do call('HSET', p, field, string.format('%.0f', number)) end
  end
  call('HSET', p, 'z', string.format('%.0f', now + lease))
  call('PEXPIRE', p, long)
  call('DEL', KEYS[6])
  return now
elseif verb == 'renew' then
  -- this first: a server whose memory is full takes it, and then what follows
  if call('PEXPIRE', p, long) == 0 then return -call('EXISTS', KEYS[6]) end
  call('HSET', p, 'w', ARGV[3], 's', ARGV[4], 'z', string.format('%.0f', now + lease))
  for _, key in ipairs({i, x, e, h}) do call('PEXPIRE', key, long) end
  call('ZREMRANGEBYSCORE', e, '-inf', string.format('%.0f', now - 600000))
  return now
elseif verb == 'end' then
  if ARGV[3] == 'lapsed' and call('EXISTS', p) == 1 then
    -- without z it is of a release that lets p expire with the lease
    local z = call('HGET', p, 'z')
    if not z or tonumber(z) > now then return 0 end
  end
  local waiting, start, is_over = 0, '-', false
  while not is_over do
    local entries = call('XRANGE', i, start, '+', 'COUNT', 500)
    is_over = #entries < 500
    for _, entry in ipairs(entries) do
      start = '(' .. entry[1]
      if entry[2][1] == '=' or entry[2][1] == '*' then waiting = waiting + 1 end
    end
  end
  call('DEL', p, i)
  if ARGV[3] == 'lapsed' then call('SET', KEYS[6], '', 'PX', 86400000) end
  return {call('ZRANGE', x, 0, -1), call('SMEMBERS', h), waiting}
elseif verb == 'forget' then
  if call('EXISTS', p) == 1 then return 0 end
  return call('DEL', i, x, e, h)
end
call('DEL', x, e)
if call('EXISTS', p) == 0 then
  call('DEL', i)
  return 0
end
call('XTRIM', i, 'MAXLEN', '=', 0)  -- not deleted: ids go on from where its reader is
for _, field in ipairs(call('HKEYS', p)) do
  local first = string.sub(field, 1, 1)
  if first == 'c' or first == 'C' then call('HDEL', p, field) end
end
call('HSET', p, 'n', 0, 'b', 0)
call('XADD', i, '*', '?', '', 'm', '')
return 1
