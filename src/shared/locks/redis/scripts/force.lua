-- Force-releases the lock: revokes it from every holder, notifies their processes, raises the fencing token and hands
-- the lock over to the next waiter.
-- KEYS[1]  the lock
-- KEYS[2]  the index (see prelude.lua)
-- ARGV[1]  above: the raised token is not below it
-- Returns {raised token, then for each revoked holder: "id token since_us", ttl_left_ms}.
local now_us = server_us()
local now_ms = ms(now_us)
local held = call('GET', LOCK)
count_sharers(now_ms)
local fence = math.max(now_us, tonumber(call('GET', FENCE) or '0') + 1, tonumber(ARGV[1]))
local answer = { fence }
if held then
  answer[2], answer[3] = held, call('PTTL', LOCK)
  notify(string.match(held, '^(.*) %d+ %d+$') or held, 'taken')
end
local others = call('ZRANGE', UNTIL, 0, -1, 'WITHSCORES')
for i = 1, #others, 2 do
  answer[#answer + 1] = others[i] .. ' ' .. (call('HGET', SHARE, others[i]) or '')
  answer[#answer + 1] = others[i + 1] - now_ms
  notify(others[i], 'taken')
end
call('DEL', LOCK, UNTIL, SHARE)
call('SET', FENCE, text(fence), 'EX', '604800')
advance_queue(now_us)
return answer
