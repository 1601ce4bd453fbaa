-- Takes or keeps the turn of filling the archive from a partition's feed.
-- KEYS 1 turn; ARGV 1 who, 2 how long (ms)
-- Says whether it is theirs: 1 or 0
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
