-- Makes or ends the membership of a channel that no process owns: a normal one, or one of an inbox without owner.
--
-- KEYS: o (members by the time they were added), k (how each is sent to). ARGV: verb + or -, member, how, time to live.
local call = redis.call
if ARGV[1] == '-' then
  call('HDEL', KEYS[2], ARGV[2])
  return call('ZREM', KEYS[1], ARGV[2])
end
local time = call('TIME')
call('ZADD', KEYS[1], string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)), ARGV[2])
call('HSET', KEYS[2], ARGV[2], ARGV[3])
call('PEXPIRE', KEYS[1], ARGV[4])
call('PEXPIRE', KEYS[2], ARGV[4])
return 1
