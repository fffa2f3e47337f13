-- Takes the lock, or keeps a place in line for it. Only the head of the line may take a free lock, whoever asks.
-- Asking again with the same id, after a lost reply or a lost message, answers with the same token and a fresh TTL.
-- KEYS 1 lock  2 fence  3 queue  4 alive (see line.lua)
-- ARGV 1 id  2 ttl_ms, and as far as they are not 0:
--      3 place_ttl_ms: stand in line, in a place that lives this long without another attempt
--      4 ticket: the place held before  5 above: the token must exceed it
-- Returns the token, or {ticket, place, ahead, waiting, free_in_ms, holder} when it is not this id's turn
local call = redis.call
local id = ARGV[1]
local kept = call('MGET', KEYS[1], KEYS[2])
local held, last = kept[1], kept[2]
if is_mine(held, id) then
  call('PEXPIRE', KEYS[1], ARGV[2])
  return tonumber(string.match(held, ' (%d+) %d+$'))
end

local now_us = server_us()
local above = ARGV[5]
if above and above - (last or 0) > 0 then
  -- Kept for the one who hands the lock over to this waiter later.
  last = above
  call('SET', KEYS[2], above, 'EX', '604800')
end

-- The common case looks at the line no further than this: the lock is free and nobody waits.
if held or call('EXISTS', KEYS[3]) == 1 then
  local now_ms = math.floor(now_us / 1000)
  local ticket, place = 0, 0
  local place_ttl_ms = tonumber(ARGV[3] or '0')
  if place_ttl_ms > 0 then
    ticket = tonumber(call('ZSCORE', KEYS[3], id) or '0')
    if ticket == 0 then
      -- A waiter that was evicted while it was paused comes back to its old place: its ticket is its order of arrival.
      ticket = tonumber(ARGV[4] or '0')
      if ticket == 0 then
        -- Above the last in line, so that a clock stepped back cannot let a newcomer in front.
        ticket = math.max(now_us, (call('ZREVRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2] or 0) + 1)
      end
      call('ZADD', KEYS[3], string.format('%.0f', ticket), id)
    end
    place = now_ms + place_ttl_ms
    call('ZADD', KEYS[4], string.format('%.0f', place), id)
    -- A line that nobody looks at any more vanishes: ten minutes are far longer than any place lives.
    call('PEXPIRE', KEYS[3], '600000')
    call('PEXPIRE', KEYS[4], '600000')
  end

  local head = line_head(now_ms)
  if not held and head and head ~= id then
    -- It expired, and the head has not noticed yet. Whoever comes first says so, and comes after it.
    hand_over(now_us)
    held = call('GET', KEYS[1])
  end
  if held then
    local ahead = ticket > 0 and call('ZRANK', KEYS[3], id) or 0
    local waiting = call('ZCOUNT', KEYS[4], string.format('(%.0f', now_ms), '+inf')
    return { ticket, place, ahead, waiting, call('PTTL', KEYS[1]), string.match(held, '^%S+ (.*) %d+ %d+$') or held }
  end
  if head then
    call('ZREM', KEYS[3], id)
    call('ZREM', KEYS[4], id)
  end
end

return take(id, ARGV[2], now_us, last)
  or redis.error_reply('WRONGTYPE the lock key holds something that is not a lock: ' .. KEYS[1])
