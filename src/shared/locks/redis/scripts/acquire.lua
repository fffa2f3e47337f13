-- Grants the lock, or adds the caller to its wait queue. Only the head of the queue is granted a free lock, whichever
-- waiter calls. Calling again with the same id, after a lost reply or a lost message, returns the same token and a
-- fresh TTL.
-- KEYS[1]  the lock
-- KEYS[2]  the index (see prelude.lua)
-- ARGV[1]  id of the owner
-- ARGV[2]  ttl_ms. The client leaves out trailing arguments that are 0:
-- ARGV[3]  slot_ttl_ms: wait in the queue, in a slot that lives this long without another attempt
-- ARGV[4]  ticket that this waiter had before
-- ARGV[5]  above: the token must exceed it
-- Returns the token, or {ticket, slot, ahead, waiting, free_in_ms, holder} when it is not this id's turn.
local id = ARGV[1]
local exclusive = string.byte(id) == EXCLUSIVE
local kept = call('MGET', LOCK, FENCE)
local held, last = kept[1], kept[2]

-- Returns the token if this id holds the lock already, and renews it for another TTL.
local function renewed(now_ms)
  if exclusive then
    if not is_mine(held, id) then return nil end
    call('PEXPIRE', LOCK, ARGV[2])
    return tonumber(string.match(held, ' (%d+) %d+$'))
  end
  local value = call('HGET', SHARE, id)
  if not value or count_sharers(now_ms) == 0 or not call('ZSCORE', UNTIL, id) then return nil end
  call('ZADD', UNTIL, text(now_ms + ARGV[2]), id)
  extend_expiry(UNTIL, tonumber(ARGV[2]))
  extend_expiry(SHARE, tonumber(ARGV[2]))
  return tonumber(string.match(value, '^%d+'))
end

local now_us = server_us()
local now_ms = ms(now_us)
local mine = (held or not exclusive) and renewed(now_ms)
if mine then return mine end

local above = ARGV[5]
if above and above - (last or 0) > 0 then
  -- Store the floor, because the process that later hands the lock over to this waiter does not know it.
  last = above
  call('SET', FENCE, above, 'EX', '604800')
end

-- The common case ends here: no holder and no waiters.
if held or call('EXISTS', QUEUE, UNTIL) > 0 then
  local ticket, slot = 0, 0
  local slot_ttl_ms = tonumber(ARGV[3] or '0')
  if slot_ttl_ms > 0 then
    ticket = tonumber(call('ZSCORE', QUEUE, id) or '0')
    if ticket == 0 then
      -- A waiter that was evicted while it was paused returns to its old position: its ticket is its order of arrival.
      ticket = tonumber(ARGV[4] or '0')
      if ticket == 0 then
        -- The ticket is above the last one in the queue, so that a newcomer cannot get in front after a clock was set back.
        ticket = math.max(now_us, (call('ZREVRANGE', QUEUE, 0, 0, 'WITHSCORES')[2] or 0) + 1)
      end
      call('ZADD', QUEUE, text(ticket), id)
    end
    slot = now_ms + slot_ttl_ms
    call('ZADD', ALIVE, text(slot), id)
    -- An abandoned queue expires: ten minutes are far longer than any slot lives.
    call('PEXPIRE', QUEUE, '600000')
    call('PEXPIRE', ALIVE, '600000')
    call('ZADD', INDEX, 'GT', text(slot), LOCK)
  end

  local head = queue_head(now_ms)
  if not held and head and head ~= id then
    -- The lock has expired and the head has not noticed yet. The first caller hands it over, and is queued behind the
    -- head or shares the lock with it.
    hand_over(now_us)
    kept = call('MGET', LOCK, FENCE)
    held, last = kept[1], kept[2]
    mine = renewed(now_ms)
    if mine then return mine end
    head = queue_head(now_ms)
  end
  if held or (head and head ~= id) or not may_join(id, now_ms) then
    local ahead = ticket > 0 and call('ZRANK', QUEUE, id) or 0
    local waiting = count_waiting(now_ms)
    local free_in_ms, holder = -1, held
    if held then
      free_in_ms = call('PTTL', LOCK)
      -- After the clock was set back, a dead holder blocks the lock for its TTL and not for an hour.
      local longest = tonumber(string.match(held, '^x (%d+) '))
      if longest and free_in_ms > longest then
        free_in_ms = longest
        call('PEXPIRE', LOCK, longest)
      end
    else
      -- A permit may become free when the first of them ends, every other mode when the last one ends.
      local verb = string.byte(id) == PERMIT and 'ZRANGE' or 'ZREVRANGE'
      local next = call(verb, UNTIL, 0, 0, 'WITHSCORES')
      if next[1] then
        free_in_ms = next[2] - now_ms
        holder = next[1] .. ' ' .. (call('HGET', SHARE, next[1]) or '')
      end
    end
    return { ticket, slot, ahead, waiting, free_in_ms, holder }
  end
  if head then leave_queue(id) end
end

local token = grant(id, ARGV[2], now_us, last)
if not token then return redis.error_reply('WRONGTYPE the lock key holds something that is not a lock: ' .. LOCK) end
-- A shared grant lets compatible waiters at the head of the queue in, too.
if not exclusive and call('EXISTS', QUEUE) == 1 then hand_over(now_us) end
return token
