-- Nothing is staged any more: from now on this server may be written to, in a new epoch.
-- KEYS 1 fence, 2 repair, 3 staged rooms, 4 feed count, 5 whether the epoch is young
-- ARGV 1 run id of this server, 2 how long an epoch lasts (ms), 3 whether there is a feed
-- Says OPEN and the fence, or MORE if something was staged meanwhile
if redis.call('HGET', KEYS[2], 'server') ~= ARGV[1] then return {'OPEN', redis.call('GET', KEYS[1]) or ''} end
if redis.call('SCARD', KEYS[3]) > 0 then return {'MORE'} end
local fence = string.format('%.0f', tonumber(redis.call('HGET', KEYS[2], 'epoch')) + 1) .. ':' .. ARGV[1]
redis.call('SET', KEYS[1], fence)
redis.call('SET', KEYS[5], '1', 'PX', ARGV[2])
redis.call('DEL', KEYS[2])
return {'OPEN', fence}
