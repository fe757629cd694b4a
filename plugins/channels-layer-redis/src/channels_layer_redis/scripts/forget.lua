-- Ends memberships of a group without telling the process that owned them, for it is dead.
--
-- KEYS: r v m, and p where it is on the same server: nothing is done if the process lives, after all.
-- ARGV: owned prefix, locals...; without locals all of them, unless one was added within the last minute.
local call = redis.call
if KEYS[4] and call('EXISTS', KEYS[4]) == 1 then return 0 end
for n = 2, #ARGV do call('ZREM', KEYS[3], ARGV[n]) end
if #ARGV == 1 then
  local newest = call('ZSCORE', KEYS[1], ARGV[1])
  if newest and newest + 60000 > call('TIME')[1] * 1000 then return 0 end
  call('DEL', KEYS[3])
end
if call('EXISTS', KEYS[3]) == 0 then
  call('ZREM', KEYS[1], ARGV[1])
  call('HDEL', KEYS[2], ARGV[1])
end
return 1
