-- Renews the lock of this owner and nobody else's.
-- KEYS 1 lock  2 alive
-- ARGV 1 id  2 ttl_ms
-- Returns how many live waiters stand in line (0 or more), -1 the lock is gone, -2 another owner has it
local held = redis.call('GET', KEYS[1])
if not held then return -1 end
if not is_mine(held, ARGV[1]) then return -2 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
if redis.call('EXISTS', KEYS[2]) == 0 then return 0 end
return redis.call('ZCOUNT', KEYS[2], string.format('(%.0f', math.floor(server_us() / 1000)), '+inf')
