-- Which processes there are, by the time at which their leases end.
--
-- KEYS: l. ARGV: verb, process, lease (ms).
--   keep    the process has a lease from now on
--   drop    it has none
--   lapsed  returns those whose lease has ended
local call = redis.call
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[1] == 'keep' then
  call('ZREM', KEYS[1], '')  -- a server whose memory is full takes this, and then the next
  return call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[3]), ARGV[2])
elseif ARGV[1] == 'drop' then
  return call('ZREM', KEYS[1], ARGV[2])
end
return call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
