-- Renews the lock, if this owner holds it.
-- KEYS[1]  the lock (see voter.lua)
-- ARGV[1]  id of the owner
-- ARGV[2]  ttl_ms
-- Returns {1, live waiters, token}, {0} when there is no lock here, or {-1} when another owner holds it.
local id, ttl_ms = ARGV[1], tonumber(ARGV[2])
local now_ms = ms(server_us())
local value = value_of(id, now_ms)
local token = value and parse_value(value) or 0
if token > 0 then
  put(id, value, ttl_ms, now_ms)
  return { 1, count_waiting(now_ms), token }
end
for _, rival in ipairs(rivals_of(id, now_ms)) do
  if rival.token ~= 0 then return { -1 } end
end
return { 0 }
