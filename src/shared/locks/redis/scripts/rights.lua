-- Finds the commands that the locks use and this user may not call. It tries each command on keys made for this purpose,
-- and deletes these keys.
-- KEYS[1]  a key that belongs to no resource (see rights.ts)
-- ARGV[1]  channel
-- ARGV[2]  'cluster' or 'quorum', which use further commands, or ''
-- Returns the names of the refused commands.
local key, channel, kind = KEYS[1], ARGV[1], ARGV[2]
local sorted, hash, set = key .. ':sorted', key .. ':hash', key .. ':set'
local tries = {
  { 'TIME' },
  { 'SET', key, '1', 'PX', '1000', 'GET' },
  { 'GET', key },
  { 'MGET', key },
  { 'EXISTS', key },
  { 'PEXPIRE', key, '1000' },
  { 'PTTL', key },
  { 'ZADD', sorted, '1', 'm' },
  { 'ZSCORE', sorted, 'm' },
  { 'ZRANK', sorted, 'm' },
  { 'ZCARD', sorted },
  { 'ZCOUNT', sorted, '0', '1' },
  { 'ZRANGE', sorted, '0', '0' },
  { 'ZREVRANGE', sorted, '0', '0' },
  { 'ZRANGEBYSCORE', sorted, '0', '1' },
  { 'ZREMRANGEBYSCORE', sorted, '0', '0' },
  { 'ZREM', sorted, 'm' },
  { 'HSET', hash, 'f', 'v' },
  { 'HGET', hash, 'f' },
  { 'HDEL', hash, 'f' },
}
if kind == 'quorum' then tries[#tries + 1] = { 'INFO', 'server' } end
if kind == 'cluster' then
  tries[#tries + 1] = { 'SADD', set, 'm' }
  tries[#tries + 1] = { 'SMEMBERS', set }
end
tries[#tries + 1] = { 'DEL', key, sorted, hash, set }
tries[#tries + 1] = { 'PUBLISH', channel, '' }

local refused = {}
for _, one in ipairs(tries) do
  local answer = redis.pcall(unpack(one))
  -- Redis versions word this error differently. This does not report other errors, for example of a server without
  -- memory.
  local text = type(answer) == 'table' and answer.err or ''
  if string.find(text, 'NOPERM', 1, true) or string.find(text, 'ermission') or string.find(text, 'ACL', 1, true)
    or string.find(text, "can't", 1, true)
  then
    refused[#refused + 1] = string.lower(one[1])
  end
end
return refused
