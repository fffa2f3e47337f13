-- Takes several locks in one step, or none of them. Without waiting, so none that somebody else waits for.
-- KEYS 1 a lock  2 their index (see prelude.lua)  3... further locks, of the same Cluster slot
-- ARGV 1 above: every token must exceed it; then for each lock: id, ttl_ms
-- Returns {1, token...}, or {0, which, waiting, free_in_ms, holder}
local now_us = server_us()
local now_ms = ms(now_us)
local locks = { KEYS[1] }
for i = 3, #KEYS do locks[#locks + 1] = KEYS[i] end

for i, lock in ipairs(locks) do
  on(lock)
  local id = ARGV[2 * i]
  local held = call('GET', LOCK)
  if not held and call('EXISTS', QUEUE) == 1 then
    hand_over(now_us)
    held = call('GET', LOCK)
  end
  local mine = is_mine(held, id) or call('ZSCORE', UNTIL, id)
  if not mine and (held or line_head(now_ms) or not admits(id, now_ms)) then
    local other = call('ZREVRANGE', UNTIL, 0, 0, 'WITHSCORES')
    local free_in_ms = held and call('PTTL', LOCK) or other[1] and other[2] - now_ms or -1
    local holder = held or other[1] and other[1] .. ' ' .. (call('HGET', SHARE, other[1]) or '')
    return { 0, i - 1, count_waiting(now_ms), free_in_ms, holder }
  end
end

local answer = { 1 }
for i, lock in ipairs(locks) do
  on(lock)
  local id, ttl_ms = ARGV[2 * i], ARGV[2 * i + 1]
  local value = call('HGET', SHARE, id)
  local held = call('GET', LOCK)
  if is_mine(held, id) then
    call('PEXPIRE', LOCK, ttl_ms)
    answer[i + 1] = tonumber(string.match(held, ' (%d+) %d+$'))
  elseif value and call('ZSCORE', UNTIL, id) then
    call('ZADD', UNTIL, text(now_ms + ttl_ms), id)
    keep(UNTIL, tonumber(ttl_ms))
    keep(SHARE, tonumber(ttl_ms))
    answer[i + 1] = tonumber(string.match(value, '^%d+'))
  else
    local last = math.max(tonumber(call('GET', FENCE) or '0'), tonumber(ARGV[1]))
    answer[i + 1] = take(id, ttl_ms, now_us, last)
    if not answer[i + 1] then
      return redis.error_reply('WRONGTYPE the lock key holds something that is not a lock: ' .. LOCK)
    end
  end
end
return answer
