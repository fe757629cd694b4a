-- Deletes the streams of a channel that are of no use: they hold nothing, waiting or leased, and nobody has sent to them
-- or read from them for a while. Who comes back to the channel makes them anew; and so does who waits on one now, for
-- before Redis 7.2 those who read and find nothing leave no trace.
--
-- KEYS: c t q f. ARGV: for how long (ms). Returns how many went.
local call = redis.call
local time = call('TIME')
local since = time[1] * 1000 + math.floor(time[2] / 1000) - ARGV[1]

local function fields(flat)
  local found = {}
  for n = 1, #flat, 2 do found[flat[n]] = flat[n + 1] end
  return found
end

local function is_of_use(stream)
  if call('XLEN', stream) > 0 then return true end
  local last = fields(call('XINFO', 'STREAM', stream))['last-generated-id']
  if tonumber(string.match(last, '^%d+')) > since then return true end
  for _, about in ipairs(call('XINFO', 'GROUPS', stream)) do
    local group = fields(about)
    if group.pending > 0 then return true end
    for _, consumer in ipairs(call('XINFO', 'CONSUMERS', stream, group.name)) do
      if fields(consumer).idle < ARGV[1] + 0 then return true end
    end
  end
  return false
end

local gone = 0
for n = 1, 3 do
  -- what was put back into f is part of what c holds
  local is_empty = call('EXISTS', KEYS[n]) == 1 and not (n == 1 and call('EXISTS', KEYS[4]) == 1)
  if is_empty and not is_of_use(KEYS[n]) then gone = gone + call('UNLINK', KEYS[n]) end
end
return gone
