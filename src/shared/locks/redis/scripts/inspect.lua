-- Reads the holders and the live waiters of a lock.
-- KEYS[1]  the lock
-- KEYS[2]  the index (see prelude.lua)
-- Returns {last token, {holder "id token since_us", ttl_left_ms, ...}, {waiter id, ticket, ...}}.
local now_ms = ms(server_us())
local held = call('GET', LOCK)
count_sharers(now_ms)
local holders, waiters = {}, {}
if held then holders = { held, call('PTTL', LOCK) } end
local others = call('ZRANGE', UNTIL, 0, -1, 'WITHSCORES')
for i = 1, #others, 2 do
  holders[#holders + 1] = others[i] .. ' ' .. (call('HGET', SHARE, others[i]) or '')
  holders[#holders + 1] = others[i + 1] - now_ms
end
local queue = call('ZRANGE', QUEUE, 0, -1, 'WITHSCORES')
for i = 1, #queue, 2 do
  local until_ms = tonumber(call('ZSCORE', ALIVE, queue[i]) or '0')
  if is_alive(until_ms, now_ms) then
    waiters[#waiters + 1] = queue[i]
    waiters[#waiters + 1] = queue[i + 1]
  end
end
if #holders == 0 and #waiters == 0 then call('ZREM', INDEX, LOCK) end
return { call('GET', FENCE) or '0', holders, waiters }
