-- Takes the lock, or keeps a place in line for it. Only the head of the line may take a free lock, whoever asks.
-- Asking again with the same id, after a lost reply or a lost message, answers with the same token and a fresh TTL.
-- KEYS 1 lock  2 index (see prelude.lua)
-- ARGV 1 id  2 ttl_ms, and as far as they are not 0:
--      3 place_ttl_ms: stand in line, in a place that lives this long without another attempt
--      4 ticket: the place held before  5 above: the token must exceed it
-- Returns the token, or {ticket, place, ahead, waiting, free_in_ms, holder} when it is not this id's turn
local id = ARGV[1]
local exclusive = string.byte(id) == EXCLUSIVE
local kept = call('MGET', LOCK, FENCE)
local held, last = kept[1], kept[2]

-- The token if this id has the lock already; then for another TTL.
local function renewed(now_ms)
  if exclusive then
    if not is_mine(held, id) then return nil end
    call('PEXPIRE', LOCK, ARGV[2])
    return tonumber(string.match(held, ' (%d+) %d+$'))
  end
  local value = call('HGET', SHARE, id)
  if not value or sharers(now_ms) == 0 or not call('ZSCORE', UNTIL, id) then return nil end
  call('ZADD', UNTIL, text(now_ms + ARGV[2]), id)
  keep(UNTIL, tonumber(ARGV[2]))
  keep(SHARE, tonumber(ARGV[2]))
  return tonumber(string.match(value, '^%d+'))
end

local now_us = server_us()
local now_ms = ms(now_us)
local mine = (held or not exclusive) and renewed(now_ms)
if mine then return mine end

local above = ARGV[5]
if above and above - (last or 0) > 0 then
  -- Kept for the one who hands the lock over to this waiter later.
  last = above
  call('SET', FENCE, above, 'EX', '604800')
end

-- The common case looks no further than this: nobody has the lock and nobody waits.
if held or call('EXISTS', QUEUE, UNTIL) > 0 then
  local ticket, place = 0, 0
  local place_ttl_ms = tonumber(ARGV[3] or '0')
  if place_ttl_ms > 0 then
    ticket = tonumber(call('ZSCORE', QUEUE, id) or '0')
    if ticket == 0 then
      -- A waiter that was evicted while it was paused comes back to its old place: its ticket is its order of arrival.
      ticket = tonumber(ARGV[4] or '0')
      if ticket == 0 then
        -- Above the last in line, so that a clock stepped back cannot let a newcomer in front.
        ticket = math.max(now_us, (call('ZREVRANGE', QUEUE, 0, 0, 'WITHSCORES')[2] or 0) + 1)
      end
      call('ZADD', QUEUE, text(ticket), id)
    end
    place = now_ms + place_ttl_ms
    call('ZADD', ALIVE, text(place), id)
    -- A line that nobody looks at any more vanishes: ten minutes are far longer than any place lives.
    call('PEXPIRE', QUEUE, '600000')
    call('PEXPIRE', ALIVE, '600000')
    call('ZADD', INDEX, 'GT', text(place), LOCK)
  end

  local head = line_head(now_ms)
  if not held and head and head ~= id then
    -- It expired, and the head has not noticed yet. Whoever comes first says so, and comes after it; or with it.
    hand_over(now_us)
    kept = call('MGET', LOCK, FENCE)
    held, last = kept[1], kept[2]
    mine = renewed(now_ms)
    if mine then return mine end
    head = line_head(now_ms)
  end
  if held or (head and head ~= id) or not admits(id, now_ms) then
    local ahead = ticket > 0 and call('ZRANK', QUEUE, id) or 0
    local waiting = count_waiting(now_ms)
    local free_in_ms, holder = -1, held
    if held then
      free_in_ms = call('PTTL', LOCK)
      -- Where the clock was set back: a dead holder costs its TTL, not an hour.
      local longest = tonumber(string.match(held, '^x (%d+) '))
      if longest and free_in_ms > longest then
        free_in_ms = longest
        call('PEXPIRE', LOCK, longest)
      end
    else
      -- A permit may come free with the first of them, everything else with the last.
      local verb = string.byte(id) == PERMIT and 'ZRANGE' or 'ZREVRANGE'
      local next = call(verb, UNTIL, 0, 0, 'WITHSCORES')
      if next[1] then
        free_in_ms = next[2] - now_ms
        holder = next[1] .. ' ' .. (call('HGET', SHARE, next[1]) or '')
      end
    end
    return { ticket, place, ahead, waiting, free_in_ms, holder }
  end
  if head then leave_line(id) end
end

local token = take(id, ARGV[2], now_us, last)
if not token then return redis.error_reply('WRONGTYPE the lock key holds something that is not a lock: ' .. LOCK) end
-- Who shares lets in who may share with it.
if not exclusive and call('EXISTS', QUEUE) == 1 then hand_over(now_us) end
return token
