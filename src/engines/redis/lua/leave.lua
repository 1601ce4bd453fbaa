-- A node does not want to hear of rooms any more. KEYS meta of each; ARGV 1 node
for k = 1, #KEYS do
  local who = redis.call('HGET', KEYS[k], 'i')
  if who then
    local left = {}
    for node in string.gmatch(who, '[^,]+') do
      if node ~= ARGV[1] then left[#left + 1] = node end
    end
    if #left > 0 then redis.call('HSET', KEYS[k], 'i', table.concat(left, ',')) else redis.call('HDEL', KEYS[k], 'i') end
  end
end
return #KEYS
