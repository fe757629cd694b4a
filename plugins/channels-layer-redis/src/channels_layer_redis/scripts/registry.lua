-- Which processes there are, by the time at which their leases end.
--
-- Where nobody has renewed a lease for more than half of one, the server was away or stalled, and nobody is to blame:
-- whose lease ran at the last renewal gets two thirds of one more, once. Such an end has half a millisecond.
-- KEYS: l. ARGV: verb, process, lease (ms).
--   keep    the process has a lease from now on
--   drop    it has none
--   living  returns those whose lease runs
--   lapsed  returns those whose lease has ended
local call, l = redis.call, KEYS[1]
if ARGV[1] == 'drop' then return call('ZREM', l, ARGV[2]) end
local time, lease = call('TIME'), ARGV[3] + 0
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[1] == 'keep' then call('ZREM', l, '') end  -- a server whose memory is full takes this, and then the next
local newest = tonumber(call('ZRANGE', l, -1, -1, 'WITHSCORES')[2])
if newest and newest % 1 == 0 and newest < now + lease / 2 then
  local ends = now + math.floor(lease * 2 / 3) + 0.5
  call('ZREM', l, '')
  for _, process in ipairs(call('ZRANGEBYSCORE', l, string.format('(%.0f', newest - lease), string.format('(%.1f', ends))) do
    call('ZADD', l, string.format('%.1f', ends), process)
  end
end
if ARGV[1] == 'keep' then return call('ZADD', l, string.format('%.0f', now + lease), ARGV[2]) end
if ARGV[1] == 'living' then return call('ZRANGEBYSCORE', l, string.format('(%.0f', now), '+inf') end
return call('ZRANGEBYSCORE', l, '-inf', string.format('%.0f', now))
