-- Ends memberships of a group without telling the process that owned them, for it is dead.
--
-- KEYS: r v m. ARGV: owned prefix, locals...
local call = redis.call
for n = 2, #ARGV do call('ZREM', KEYS[3], ARGV[n]) end
if call('EXISTS', KEYS[3]) == 0 then
  call('ZREM', KEYS[1], ARGV[1])
  call('HDEL', KEYS[2], ARGV[1])
end
return 1
