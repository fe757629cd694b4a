-- Marks a process-specific channel as ended and says of which groups it was a member.
--
-- KEYS: p e x. ARGV: channel. The mark is what later adds find; it is kept for ten minutes.
local call = redis.call
if call('EXISTS', KEYS[1]) == 0 then return {} end
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now - 600000))  -- even a full memory takes this
call('ZADD', KEYS[2], string.format('%.0f', now), ARGV[1])
call('PEXPIRE', KEYS[2], 86400000)
local groups = {}
for n, entry in ipairs(call('ZRANGEBYLEX', KEYS[3], '[' .. ARGV[1] .. ' ', '(' .. ARGV[1] .. '!')) do
  groups[n] = string.sub(entry, #ARGV[1] + 2)
end
return groups
