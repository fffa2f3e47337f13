-- Votes for this id, or adds it to the wait queue. Another call renews the vote or the slot.
-- KEYS[1]  the lock (see voter.lua)
-- ARGV[1]  id of the owner
-- ARGV[2]  max_ttl_ms
-- ARGV[3]  vote_ms: how long a vote lives without another call or a confirmation
-- ARGV[4]  slot_ttl_ms: wait in the queue when it is not this id's turn; 0: do not wait
-- ARGV[5]  ttl_ms
-- ARGV[6]  a proposed token: if present, this call may confirm it at once (see vote-fast.lua)
-- Returns one of
--   1                                            confirmed at once
--   {1, min token, now_us, token}                voted; token is that of the lock this id had before, or 0
--   {0, ahead, waiting, free_in_ms, holder}      not this id's turn
--   {2, ms}                                      this server may not vote yet; -1 when it is not initialized
local id, vote_ms, slot_ms = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local now_us = server_us()
local now_ms = ms(now_us)
local left_ms = not_eligible(ARGV[2], now_ms)
if left_ms then return { 2, left_ms } end

local function voted(value)
  return { 1, min_token(now_us), now_us, value and parse_value(value) or 0 }
end

-- A lock of this id stays as it is: the confirmation, which comes next, renews it.
local function mine()
  local value = value_of(id, now_ms)
  if value and parse_value(value) == 0 then put(id, '0 ' .. text(slot_ms), vote_ms, now_ms) end
  return value
end
local value = mine()
if value then return voted(value) end

local head
if call('EXISTS', LOCK, QUEUE, UNTIL) > 0 then
  if slot_ms > 0 then enqueue(id, slot_ms, now_ms) end
  head = queue_head(now_ms)
  if head and before(head, id) then
    -- The lock may have expired and the head has not noticed yet. The first caller votes for the head.
    hand_over(now_us)
    value = mine()
    if value then return voted(value) end
    head = queue_head(now_ms)
  end
end

if (head and before(head, id)) or not make_way(id, now_ms) then
  local held = call('GET', LOCK)
  local free_in_ms, holder = -1, held
  if held then
    free_in_ms = call('PTTL', LOCK)
  else
    local last = call('ZREVRANGE', UNTIL, 0, 0, 'WITHSCORES')
    if last[1] then
      free_in_ms, holder = last[2] - now_ms, last[1] .. ' ' .. (call('HGET', SHARE, last[1]) or '')
    end
  end
  local ahead = call('ZRANK', QUEUE, id) or call('ZCARD', QUEUE)
  return { 0, ahead, count_waiting(now_ms), free_in_ms, holder }
end

put(id, '0 ' .. text(slot_ms), vote_ms, now_ms)
-- A shared vote lets compatible waiters at the head of the queue in, too.
if string.byte(id) ~= EXCLUSIVE and call('EXISTS', QUEUE) == 1 then hand_over(now_us) end
return voted()
