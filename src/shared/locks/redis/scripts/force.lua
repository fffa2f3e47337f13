-- Takes the lock away from all who have it, tells them, and lets the line go on above a raised fence.
-- KEYS 1 lock  2 index (see prelude.lua)
-- ARGV 1 above: the raised fence is not below it
-- Returns {fence, then for each robbed holder: "id token since_us", ttl_left_ms}
local now_us = server_us()
local now_ms = ms(now_us)
local held = call('GET', LOCK)
sharers(now_ms)
local fence = math.max(now_us, tonumber(call('GET', FENCE) or '0') + 1, tonumber(ARGV[1]))
local answer = { fence }
if held then
  answer[2], answer[3] = held, call('PTTL', LOCK)
  tell(string.match(held, '^(.*) %d+ %d+$') or held, 'taken')
end
local others = call('ZRANGE', UNTIL, 0, -1, 'WITHSCORES')
for i = 1, #others, 2 do
  answer[#answer + 1] = others[i] .. ' ' .. (call('HGET', SHARE, others[i]) or '')
  answer[#answer + 1] = others[i + 1] - now_ms
  tell(others[i], 'taken')
end
call('DEL', LOCK, UNTIL, SHARE)
call('SET', FENCE, text(fence), 'EX', '604800')
go_on(now_us)
return answer
