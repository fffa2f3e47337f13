-- Initializes a voter that does not know whether it ever voted: stores when its time without a vote began.
-- KEYS[1]  the lock (see voter.lua)
-- ARGV[1]  '0': the voter may vote at once; any other value: its time without a vote begins now
-- Returns 1.
local since_ms = ARGV[1] == '0' and '0' or text(ms(server_us()))
local run_id = string.match(call('INFO', 'server'), 'run_id:(%x+)')
call('SET', VOTER, run_id .. ' ' .. since_ms, 'NX')
return 1
