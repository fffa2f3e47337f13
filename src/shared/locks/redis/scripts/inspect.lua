-- Who has the lock and who waits for it.
-- KEYS 1 lock  2 index (see prelude.lua)
-- Returns {fence, {holder "id token since_us", ttl_left_ms, ...}, {waiter id, ticket, ...}}
local now_ms = ms(server_us())
local held = call('GET', LOCK)
sharers(now_ms)
local holders, waiters = {}, {}
if held then holders = { held, call('PTTL', LOCK) } end
local others = call('ZRANGE', UNTIL, 0, -1, 'WITHSCORES')
for i = 1, #others, 2 do
  holders[#holders + 1] = others[i] .. ' ' .. (call('HGET', SHARE, others[i]) or '')
  holders[#holders + 1] = others[i + 1] - now_ms
end
local line = call('ZRANGE', QUEUE, 0, -1, 'WITHSCORES')
for i = 1, #line, 2 do
  local until_ms = tonumber(call('ZSCORE', ALIVE, line[i]) or '0')
  if lives(until_ms, now_ms) then
    waiters[#waiters + 1] = line[i]
    waiters[#waiters + 1] = line[i + 1]
  end
end
if #holders == 0 and #waiters == 0 then call('ZREM', INDEX, LOCK) end
return { call('GET', FENCE) or '0', holders, waiters }
