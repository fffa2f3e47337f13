-- Renews the lock of this owner and nobody else's.
-- KEYS 1 lock (see voter.lua)
-- ARGV 1 id  2 ttl_ms
-- Returns {1, live waiters, token}, {0} when it has no lock here and nobody else has one, {-1} when somebody else has
local id, ttl_ms = ARGV[1], tonumber(ARGV[2])
local now_ms = ms(server_us())
local value = value_of(id, now_ms)
local token = value and parts(value) or 0
if token > 0 then
  put(id, value, ttl_ms, now_ms)
  return { 1, count_waiting(now_ms), token }
end
for _, rival in ipairs(rivals_of(id, now_ms)) do
  if rival.token ~= 0 then return { -1 } end
end
return { 0 }
