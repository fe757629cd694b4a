-- What a group knows of one prefix: its version, then its locals.
--
-- KEYS: v m. ARGV: owned prefix.
local locals = redis.call('ZRANGE', KEYS[2], 0, -1)
table.insert(locals, 1, redis.call('HGET', KEYS[1], ARGV[1]) or '0')
return locals
