-- The members of a group: for a send in two steps, and for those who ask.
--
-- KEYS: r o. ARGV: prefix, lapse (ms), "names" or "places". Returns the owned prefixes, each with its locals
-- ("names") or their number ("places"); then the members without owner that have not lapsed.
local call = redis.call
local time = call('TIME')
call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) - ARGV[2]))
local owned = call('ZRANGE', KEYS[1], 0, -1)
local m = ARGV[1] .. ':m' .. string.sub(KEYS[1], #ARGV[1] + 3)
for n, prefix in ipairs(owned) do
  owned[n] = {prefix, ARGV[3] == 'names' and call('ZRANGE', m .. prefix, 0, -1) or call('ZCARD', m .. prefix)}
end
return {owned, call('ZRANGE', KEYS[2], 0, -1)}
