-- The line, shared by the verbs that look at it: loaded in front of them, so a script stays one atomic step.
--   queue  sorted set, waiter id -> ticket: the order of arrival
--   alive  sorted set, waiter id -> server ms until which that waiter's own heartbeat keeps its place
-- An id is "<channel of its process>/<seat>-<uuid>".

-- The first waiter that is alive, until when, and how many dead ones were in front of it. They all go in this same
-- step, so k waiters that died together cost the line one place's lifetime, not k. No place is given for more than 3 s:
-- one that claims to live longer than 10 s is left from before the clock was set back, and its owner, if any, returns.
local function line_head(queue, alive, now_ms)
  local pruned = 0
  while true do
    local first = redis.call('ZRANGE', queue, 0, 0)[1]
    if not first then return nil, 0, pruned end
    local until_ms = tonumber(redis.call('ZSCORE', alive, first) or '0')
    if until_ms > now_ms and until_ms < now_ms + 10000 then return first, until_ms, pruned end
    redis.call('ZREM', queue, first)
    redis.call('ZREM', alive, first)
    pruned = pruned + 1
  end
end

-- Tells exactly one waiter, through its process's channel, that it may try now.
local function wake(waiter)
  redis.call('PUBLISH', string.match(waiter, '^(.*)/'), waiter)
end

local function server_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function is_mine(held, id)
  return held and string.find(held, id, 1, true) == 1
end
