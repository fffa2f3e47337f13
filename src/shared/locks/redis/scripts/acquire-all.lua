-- Grants several locks in one step, or none of them. It does not wait, so it grants no lock that has a wait queue.
-- KEYS[1]  the first lock
-- KEYS[2]  the index of all of them (see prelude.lua)
-- KEYS[3]...  further locks, of the same Cluster slot
-- ARGV[1]  above: every token must exceed it
-- ARGV[2]...  for each lock: id, ttl_ms
-- Returns {1, token...}, or {0, position of the busy lock from 0 on, waiting, free_in_ms, holder}.
local now_us = server_us()
local now_ms = ms(now_us)
local locks = { KEYS[1] }
for i = 3, #KEYS do locks[#locks + 1] = KEYS[i] end

for i, lock in ipairs(locks) do
  select_lock(lock)
  local id = ARGV[2 * i]
  local held = call('GET', LOCK)
  if not held and call('EXISTS', QUEUE) == 1 then
    hand_over(now_us)
    held = call('GET', LOCK)
  end
  local mine = is_mine(held, id) or call('ZSCORE', UNTIL, id)
  if not mine and (held or queue_head(now_ms) or not may_join(id, now_ms)) then
    local other = call('ZREVRANGE', UNTIL, 0, 0, 'WITHSCORES')
    local free_in_ms = held and call('PTTL', LOCK) or other[1] and other[2] - now_ms or -1
    local holder = held or other[1] and other[1] .. ' ' .. (call('HGET', SHARE, other[1]) or '')
    return { 0, i - 1, count_waiting(now_ms), free_in_ms, holder }
  end
end

local answer = { 1 }
for i, lock in ipairs(locks) do
  select_lock(lock)
  local id, ttl_ms = ARGV[2 * i], ARGV[2 * i + 1]
  local value = call('HGET', SHARE, id)
  local held = call('GET', LOCK)
  if is_mine(held, id) then
    call('PEXPIRE', LOCK, ttl_ms)
    answer[i + 1] = tonumber(string.match(held, ' (%d+) %d+$'))
  elseif value and call('ZSCORE', UNTIL, id) then
    call('ZADD', UNTIL, text(now_ms + ttl_ms), id)
    extend_expiry(UNTIL, tonumber(ttl_ms))
    extend_expiry(SHARE, tonumber(ttl_ms))
    answer[i + 1] = tonumber(string.match(value, '^%d+'))
  else
    local last = math.max(tonumber(call('GET', FENCE) or '0'), tonumber(ARGV[1]))
    answer[i + 1] = grant(id, ttl_ms, now_us, last)
    if not answer[i + 1] then
      return redis.error_reply('WRONGTYPE the lock key holds something that is not a lock: ' .. LOCK)
    end
  end
end
return answer
