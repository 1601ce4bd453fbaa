-- Tells Redis what an archive knows of a room that Redis does not know (any more); somebody else may have been first.
-- KEYS 1 meta; ARGV 1 top, 2 life of meta (ms, 0: for ever); then epoch, first offset of each life
if redis.call('HSETNX', KEYS[1], 's', ARGV[1]) == 0 then return 0 end
for a = 3, #ARGV, 2 do redis.call('HSETNX', KEYS[1], 'e' .. ARGV[a], ARGV[a + 1]) end
if tonumber(ARGV[2]) > 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
