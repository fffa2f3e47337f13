-- Tells a server that does not know whether it ever voted from when on it has been waiting for it.
-- KEYS 1 lock (see voter.lua)
-- ARGV 1 since_ms: 0 to let it vote at once, anything else for now
local since_ms = ARGV[1] == '0' and '0' or text(ms(server_us()))
local run_id = string.match(call('INFO', 'server'), 'run_id:(%x+)')
call('SET', VOTER, run_id .. ' ' .. since_ms, 'NX')
return 1
