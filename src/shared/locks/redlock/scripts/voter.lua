-- What the verbs of one voter share, loaded behind prelude.lua, whose take, hand_over and go_on are not for voters.
-- <prefix>lock:voter  string "run_id since_ms": which run of this server may vote, and from when on it has been waiting
-- An id has its ticket behind the seat: "<x | s> <ttl_ms> <channel of its process>/<seat>-<ticket>-<uuid> <owner>". The
-- client gives the ticket, the same to every voter, so that all lines have one order.
-- Where prelude.lua keeps "token since_us", there is a vote as long as the token is 0: "0 place_ms". Nobody else gets the
-- lock from this voter then, but a vote gives way to an earlier ticket, and its owner stands in line again for place_ms
-- (0: it was not waiting). Only a lock, with its token, stays until its end.
local VOTER = string.sub(INDEX, 1, -#'index' - 1) .. 'voter'

local function ticket_of(id)
  return tonumber(string.match(id, '^%S+ %S+ %S*/%d+%-(%d+)%-') or '0')
end

local function before(id, other)
  local a, b = ticket_of(id), ticket_of(other)
  return a < b or (a == b and id < other)
end

-- "token since_us" or "0 place_ms" as two numbers; nil for what is neither.
local function parts(value)
  local first, second = string.match(value, '(%d+) (%d+)$')
  return tonumber(first), tonumber(second)
end

-- Why this server may not vote: nil if it may, -1 if it does not know whether it ever did, else for how many ms still.
-- A server that was restarted, flushed or restored from a copy may have forgotten a lock. It keeps out of votes until
-- every lock that it may have forgotten is over.
local function barred(max_ttl_ms, now_ms)
  local known = call('GET', VOTER)
  if not known then return -1 end
  local run_id = string.match(call('INFO', 'server'), 'run_id:(%x+)')
  local voter, since_ms = string.match(known, '^(%x+) (%d+)$')
  if voter ~= run_id or tonumber(since_ms) > now_ms then
    call('SET', VOTER, run_id .. ' ' .. text(now_ms))
    return tonumber(max_ttl_ms)
  end
  local left_ms = since_ms + max_ttl_ms - now_ms
  if left_ms > 0 then return left_ms end
end

-- "token since_us" or "0 place_ms", if this id has a lock or a vote here.
local function value_of(id, now_ms)
  if string.byte(id) == EXCLUSIVE then
    local held = call('GET', LOCK)
    return is_mine(held, id) and string.match(held, '%d+ %d+$') or nil
  end
  if sharers(now_ms) == 0 or not call('ZSCORE', UNTIL, id) then return nil end
  return call('HGET', SHARE, id) or nil
end

local function put(id, value, ttl_ms, now_ms)
  if string.byte(id) == EXCLUSIVE then
    call('SET', LOCK, id .. ' ' .. value, 'PX', text(ttl_ms))
  else
    call('ZADD', UNTIL, text(now_ms + ttl_ms), id)
    call('HSET', SHARE, id, value)
    keep(UNTIL, ttl_ms)
    keep(SHARE, ttl_ms)
  end
  call('ZADD', INDEX, 'GT', text(now_ms + ttl_ms), LOCK)
  leave_line(id)
end

local function remove(id)
  if string.byte(id) == EXCLUSIVE then call('DEL', LOCK) else leave_share(id) end
end

local function stand_in_line(id, place_ms, now_ms)
  call('ZADD', QUEUE, text(ticket_of(id)), id)
  call('ZADD', ALIVE, text(now_ms + place_ms), id)
  call('PEXPIRE', QUEUE, '600000')
  call('PEXPIRE', ALIVE, '600000')
  call('ZADD', INDEX, 'GT', text(now_ms + place_ms), LOCK)
end

-- Whose lock or vote keeps this id out. What is no lock at all counts as one.
local function rivals_of(id, now_ms)
  local rivals = {}
  local held = call('GET', LOCK)
  if held and not is_mine(held, id) then
    rivals[1] = { id = string.match(held, '^(.*) %d+ %d+$') or held, value = held }
  end
  if string.byte(id) == EXCLUSIVE and sharers(now_ms) > 0 then
    for _, other in ipairs(call('ZRANGE', UNTIL, 0, -1)) do
      rivals[#rivals + 1] = { id = other, value = call('HGET', SHARE, other) or '' }
    end
  end
  for _, rival in ipairs(rivals) do
    rival.token, rival.place_ms = parts(rival.value)
  end
  return rivals
end

-- Is nobody in this id's way any more? Votes of those who came later give way; with `every`, all votes do.
local function make_way(id, now_ms, every)
  local rivals = rivals_of(id, now_ms)
  for _, rival in ipairs(rivals) do
    if rival.token ~= 0 or not (every or before(id, rival.id)) then return false end
  end
  for _, rival in ipairs(rivals) do
    remove(rival.id)
    if rival.place_ms > 0 then stand_in_line(rival.id, rival.place_ms, now_ms) end
  end
  return true
end

-- A token from this voter's point of view: the highest of a quorum is above all that were given before.
local function least_token(now_us)
  return math.max(now_us, tonumber(call('GET', FENCE) or '0') + 1)
end

-- Votes for the head of the line, and for those behind it as far as they may share, and tells them so. For as long as
-- the place would have lived, so that a dead head costs no more than its place did.
local function hand_over(now_us)
  local now_ms = ms(now_us)
  while true do
    local head, until_ms = line_head(now_ms)
    if not head or not make_way(head, now_ms) then return end
    local place_ms = until_ms - now_ms
    put(head, '0 ' .. text(place_ms), place_ms, now_ms)
    tell(head, text(until_ms) .. ' ' .. text(least_token(now_us)))
    if string.byte(head) == EXCLUSIVE then return end
  end
end

local function go_on(now_us)
  if call('EXISTS', QUEUE) == 1 then hand_over(now_us or server_us()) end
  if call('EXISTS', LOCK, UNTIL) == 0 then call('ZREM', INDEX, LOCK) end
end
