-- Sends one message to a channel that has room by a first look; exchange.lua looks closer where this one says 0.
--
-- KEYS: c f. ARGV: capacity, time to live (ms, 0 is for ever), envelope. Returns 1, or 0 and nothing done.
local call, c = redis.call, KEYS[1]
if call('XLEN', c) + call('LLEN', KEYS[2]) >= ARGV[1] + 0 then return 0 end
call('XADD', c, '*', 'm', ARGV[3])
if ARGV[2] ~= '0' then call('PEXPIRE', c, ARGV[2]) end
return 1
