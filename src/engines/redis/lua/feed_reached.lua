-- The archive has everything in the feed up to a place: says so to all who wait for it, and lets go of that part. Who
-- comes late with an earlier place changes nothing.
-- KEYS 1 feed, 2 how far the archive has come; ARGV 1 epoch, 2 number
-- Says how many entries are left
local known = redis.call('GET', KEYS[2])
local epoch, n = tonumber(ARGV[1]), tonumber(ARGV[2])
local further = true
if known then
  local e, m = string.match(known, '^(%d+)-(%d+)$')
  e, m = tonumber(e or '0'), tonumber(m or '0')
  further = epoch > e or (epoch == e and n > m)
end
if further then
  redis.call('SET', KEYS[2], ARGV[1] .. '-' .. ARGV[2])
  redis.call('XTRIM', KEYS[1], 'MINID', ARGV[1] .. '-' .. string.format('%.0f', n + 1))
end
return redis.call('XLEN', KEYS[1])
