-- Takes the lock, or keeps a place in line for it. Only the head of the line may take a free lock, whoever asks.
-- Asking again with the same id after a lost reply answers with the same token and a fresh TTL.
-- KEYS 1 lock   string "id token since_us owner", expires
--      2 fence  the last token given for this resource
--      3 queue  4 alive   the line (see line.lua)
-- ARGV 1 id  2 ttl_ms  3 owner, and as far as they are not 0:
--      4 place_ttl_ms: stand in line, in a place that lives this long without another attempt
--      5 ticket: the place held before  6 above: the token must exceed it
-- Returns the token, or {ticket, ahead, waiting, free_in_ms, holder} when it is not this id's turn
local call = redis.call
local id = ARGV[1]
local kept = call('MGET', KEYS[1], KEYS[2])
local held, last = kept[1], kept[2]
if is_mine(held, id) then
  call('PEXPIRE', KEYS[1], ARGV[2])
  return tonumber(string.match(held, '^%S+ (%d+)'))
end

local now_us = server_us()
-- The common case looks at the line no further than this: the lock is free and nobody waits.
if held or call('EXISTS', KEYS[3]) == 1 then
  local now_ms = math.floor(now_us / 1000)
  local ticket = 0
  local place_ttl_ms = tonumber(ARGV[4] or '0')
  if place_ttl_ms > 0 then
    ticket = tonumber(call('ZSCORE', KEYS[3], id) or '0')
    if ticket == 0 then
      -- A waiter that was evicted while it was paused comes back to its old place: its ticket is its order of arrival.
      ticket = tonumber(ARGV[5] or '0')
      if ticket == 0 then
        -- Above the last in line, so that a clock stepped back cannot let a newcomer in front.
        ticket = math.max(now_us, (call('ZREVRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2] or 0) + 1)
      end
      call('ZADD', KEYS[3], string.format('%.0f', ticket), id)
    end
    call('ZADD', KEYS[4], string.format('%.0f', now_ms + place_ttl_ms), id)
    -- A line that nobody looks at any more vanishes: ten minutes are far longer than any place lives.
    call('PEXPIRE', KEYS[3], '600000')
    call('PEXPIRE', KEYS[4], '600000')
  end

  local head, head_until_ms, pruned = line_head(KEYS[3], KEYS[4], now_ms)
  if held or (head and head ~= id) then
    local free_in_ms = held and call('PTTL', KEYS[1]) or head_until_ms - now_ms
    -- Free, but it is the head's turn: when the one that was told of it has died, the new head must hear of it.
    if not held and pruned > 0 then wake(head) end
    local ahead = ticket > 0 and call('ZRANK', KEYS[3], id) or 0
    local waiting = call('ZCOUNT', KEYS[4], string.format('(%.0f', now_ms), '+inf')
    return { ticket, ahead, waiting, free_in_ms, held and string.match(held, '^%S+ %S+ %S+ (.*)$') or held or '' }
  end
  if head then
    call('ZREM', KEYS[3], id)
    call('ZREM', KEYS[4], id)
  end
end

local token = now_us
if last and last + 1 > token then token = last + 1 end
if ARGV[6] and ARGV[6] + 1 > token then token = ARGV[6] + 1 end
local text = string.format('%.0f', token)
local since = token == now_us and text or string.format('%.0f', now_us)
local value = id .. ' ' .. text .. ' ' .. since .. ' ' .. ARGV[3]
-- NX only matters when something that is not a lock has the key: it is left alone, and nobody gets a lease.
if not call('SET', KEYS[1], value, 'PX', ARGV[2], 'NX') then
  return redis.error_reply('WRONGTYPE the lock key holds something that is not a lock: ' .. KEYS[1])
end
-- A week: tokens follow the clock, so the counter only has to outlive a step of the clock backwards.
call('SET', KEYS[2], text, 'EX', '604800')
return token
