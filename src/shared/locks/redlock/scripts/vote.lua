-- Votes for this id, or keeps a place in line for it. Asking again renews the vote or the place.
-- KEYS 1 lock (see voter.lua)
-- ARGV 1 id  2 max_ttl_ms  3 vote_ms: how long a vote lives without another one or a confirmation
--      4 place_ttl_ms: stand in line when it is not this id's turn; 0 = do not
--      5 ttl_ms  6 a token: given, this may be confirmed at once (see vote-fast.lua)
-- Returns 1 when it was, {1, least token, now_us, token of the lock that this id has had before or 0}, {0, ahead, waiting, free_in_ms, holder}, or {2, ms until this server may vote, or -1}
local id, vote_ms, place_ms = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local now_us = server_us()
local now_ms = ms(now_us)
local left_ms = barred(ARGV[2], now_ms)
if left_ms then return { 2, left_ms } end

local function voted(value)
  return { 1, least_token(now_us), now_us, value and parts(value) or 0 }
end

-- A lock of this id is left as it is: the confirmation, which comes next, renews it.
local function mine()
  local value = value_of(id, now_ms)
  if value and parts(value) == 0 then put(id, '0 ' .. text(place_ms), vote_ms, now_ms) end
  return value
end
local value = mine()
if value then return voted(value) end

local head
if call('EXISTS', LOCK, QUEUE, UNTIL) > 0 then
  if place_ms > 0 then stand_in_line(id, place_ms, now_ms) end
  head = line_head(now_ms)
  if head and before(head, id) then
    -- The lock may have expired, and the head has not noticed yet. Whoever comes first says so.
    hand_over(now_us)
    value = mine()
    if value then return voted(value) end
    head = line_head(now_ms)
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

put(id, '0 ' .. text(place_ms), vote_ms, now_ms)
-- Who shares lets in who may share with it.
if string.byte(id) ~= EXCLUSIVE and call('EXISTS', QUEUE) == 1 then hand_over(now_us) end
return voted()
