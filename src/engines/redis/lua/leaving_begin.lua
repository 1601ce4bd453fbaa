-- Where a target stands in a partition's stream of what leaves; a target that was never there before gets its place.
-- KEYS 1 turn, 2 stream, 3 places; ARGV 1 who, 2 target, 3 whether it begins behind what is there
-- Says the place, or LOST when it is another's turn
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'LOST' end
local place = redis.call('HGET', KEYS[3], ARGV[2])
if place then return place end
place = '0-0'
if ARGV[3] == '1' and redis.call('EXISTS', KEYS[2]) == 1 then
  local facts = redis.call('XINFO', 'STREAM', KEYS[2])
  for i = 1, #facts, 2 do
    if facts[i] == 'last-generated-id' then place = facts[i + 1] end
  end
end
redis.call('HSET', KEYS[3], ARGV[2], place)
return place
