-- Sends one message to a process's inbox that has room by a first look; exchange.lua looks closer where this one says 0.
--
-- KEYS: p i. ARGV: field, capacity, bytes, size, header, envelope. Returns 1, 0 and nothing done, or 2: the process is dead.
local call, p = redis.call, KEYS[1]
local has = call('HMGET', p, 'k', ARGV[1], 'b')
if not has[1] then return 2 end
local waiting, size, bytes = has[2] or 0, has[3] or 0, ARGV[3] + 0
if waiting + 0 >= ARGV[2] + 0 or (bytes > 0 and size + 0 >= bytes) then return 0 end
call('XADD', KEYS[2], '*', '=', ARGV[5], 'm', ARGV[6])
if bytes > 0 then
  call('HSET', p, ARGV[1], waiting + 1, 'b', size + ARGV[4])
else
  call('HSET', p, ARGV[1], waiting + 1)
end
return 1
