-- Takes the lock, or keeps a place in line for it. Only the head of the line may take a free lock, whoever asks.
-- Asking again with the same id after a lost reply answers with the same token and a fresh TTL.
-- KEYS 1 lock   string "id token since_ms owner", expires
--      2 fence  the last token given for this resource
--      3 queue  4 alive   the line (see line.lua)
-- ARGV 1 id  2 ttl_ms  3 owner  4 above: the token must exceed it  5 line_ttl_ms: how long a place lives without a
--      heartbeat, 0 = do not stand in line  6 ticket: the place held before, 0 = none  7 prefix of the wake channels
-- Returns {1, token}, or {0, ticket, ahead, waiting, free_in_ms, holder}
local id, ttl_ms, line_ttl_ms = ARGV[1], ARGV[2], tonumber(ARGV[5])
local now_us = server_us()
local now_ms = math.floor(now_us / 1000)

local held = redis.call('GET', KEYS[1])
if is_mine(held, id) then
  redis.call('PEXPIRE', KEYS[1], ttl_ms)
  return { 1, tonumber(string.match(held, '^%S+ (%d+)')) }
end

-- A waiter that was evicted while it was paused comes back to its old place: its ticket is its order of arrival.
local ticket = 0
if line_ttl_ms > 0 then
  ticket = tonumber(redis.call('ZSCORE', KEYS[3], id) or '0')
  if ticket == 0 and (held or redis.call('EXISTS', KEYS[3]) == 1) then
    ticket = tonumber(ARGV[6])
    if ticket == 0 then
      -- One more than the last in line, so that a clock stepped back cannot let a newcomer in front.
      local last = redis.call('ZREVRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2]
      ticket = math.max(now_us, tonumber(last or '0') + 1)
    end
    redis.call('ZADD', KEYS[3], string.format('%.0f', ticket), id)
  end
  if ticket > 0 then
    redis.call('ZADD', KEYS[4], now_ms + line_ttl_ms, id)
    -- Lines that nobody looks at any more vanish; far longer than any place lives.
    redis.call('PEXPIRE', KEYS[3], 600000)
    redis.call('PEXPIRE', KEYS[4], 600000)
  end
end

local head, head_until_ms, pruned = line_head(KEYS[3], KEYS[4], now_ms)
if not held and (not head or head == id) then
  local token = math.max(now_us, tonumber(redis.call('GET', KEYS[2]) or '0') + 1, tonumber(ARGV[4]) + 1)
  local text = string.format('%.0f', token)
  redis.call('SET', KEYS[1], id .. ' ' .. text .. ' ' .. string.format('%.0f', now_ms) .. ' ' .. ARGV[3], 'PX', ttl_ms)
  -- A week: tokens follow the clock, so the counter only has to outlive a step of the clock backwards.
  redis.call('SET', KEYS[2], text, 'PX', 604800000)
  if head then
    redis.call('ZREM', KEYS[3], id)
    redis.call('ZREM', KEYS[4], id)
  end
  return { 1, token }
end

local free_in_ms, holder
if held then
  free_in_ms = redis.call('PTTL', KEYS[1])
  holder = string.match(held, '^%S+ %S+ %S+ (.*)$') or held
else
  -- Free, but it is the head's turn. If the one that was told has died, the new head must hear of it.
  if pruned > 0 then wake(ARGV[7], head) end
  free_in_ms = head_until_ms - now_ms
  holder = ''
end
local ahead = ticket > 0 and redis.call('ZRANK', KEYS[3], id) or 0
return { 0, ticket, ahead, redis.call('ZCOUNT', KEYS[4], '(' .. now_ms, '+inf'), free_in_ms, holder }
