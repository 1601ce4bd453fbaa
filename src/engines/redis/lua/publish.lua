-- Gives places to messages of many rooms of one partition, and sends them to the nodes that have joined.
-- KEYS 1 fence, 2 feed, 3 feed count, 4 what leaves, 5 count of what leaves; then per room: meta, history, dedup 0, dedup 1, changes
-- ARGV 1 fence, 2 epoch, 3 session channel, 4 inbox channels without the node, 5 most entries in the feed (0: no feed),
--      6 whether rooms are known to an archive, 7 number of rooms, 8 publish command, 9 numsub command,
--      10 most entries of what leaves;
--      per room: name behind its length, history length, dedup window, life of meta, life of history (both ms, 0: for ever), mark,
--      whether its entries leave
--      then per message: number of its room, body
-- Says per message: + new or = known before "offset:epoch:ts[:feed id]", g: what it is about is gone, u: room not loaded
local fence = redis.call('GET', KEYS[1])
if fence ~= ARGV[1] then return {'F', fence or ''} end
-- Subscriptions belong to one server process and are never replicated: OUR repaired session lives on THIS server.
if redis.call('PUBSUB', ARGV[9], ARGV[3])[2] == 0 then return {'S', fence} end
local epoch, feed_max = ARGV[2], tonumber(ARGV[5])
if feed_max > 0 and redis.call('XLEN', KEYS[2]) >= feed_max then return {'A', fence} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local rooms, a = {}, 11
for r = 1, tonumber(ARGV[7]) do
  local k = 6 + (r - 1) * 5
  local m = redis.call('HMGET', KEYS[k], 's', 'i', 'd', 'e' .. epoch)
  local room = {
    meta = KEYS[k], hist = KEYS[k + 1], changes = KEYS[k + 4], known = m[1], who = m[2], begun = m[4],
    name = ARGV[a], length = tonumber(ARGV[a + 1]), window = tonumber(ARGV[a + 2]),
    meta_life = tonumber(ARGV[a + 3]), hist_life = tonumber(ARGV[a + 4]), mark = ARGV[a + 5] == '1', leaves = ARGV[a + 6] == '1',
    wrote = false,
  }
  local which, start = 0, now
  if m[3] then
    local w, s = string.match(m[3], '^(%d):(%d+)$')
    which, start = tonumber(w), tonumber(s)
  end
  -- Redis' own clock turns the buckets, so that all nodes agree on which is which.
  if not m[3] or now - start >= room.window or start > now + room.window then
    if m[3] then
      which = 1 - which
      redis.call('UNLINK', KEYS[k + 2 + which])
    end
    redis.call('HSET', room.meta, 'd', which .. ':' .. string.format('%.0f', now))
    room.mark = true
  end
  room.cur, room.prev = KEYS[k + 2 + which], KEYS[k + 3 - which]
  rooms[r] = room
  a = a + 7
end
-- Which are new is settled before anything is written, so that a room's ids are asked for and written down at once.
local messages = {}
while ARGV[a] do
  local room, body = rooms[tonumber(ARGV[a])], ARGV[a + 1]
  local kind, _, ts, of, id_bytes = struct.unpack('>BBI8I8I2', body, 2)
  local message = {room = room, body = body, kind = kind, ts = ts, id = string.sub(body, 22, 21 + id_bytes)}
  if kind ~= 1 then message.of = string.format('%.0f', of) end
  messages[#messages + 1] = message
  room.ids = room.ids or {}
  room.ids[#room.ids + 1] = message.id
  a = a + 2
end
for _, room in ipairs(rooms) do
  room.old, room.first, room.gone, room.count, room.notes = {}, {}, {}, 0, {}
  if room.ids then
    local found, missing = redis.call('HMGET', room.cur, unpack(room.ids)), {}
    for n, id in ipairs(room.ids) do
      if found[n] then room.old[id] = found[n] else missing[#missing + 1] = id end
    end
    -- Most rooms have no older bucket.
    if #missing > 0 and redis.call('EXISTS', room.prev) == 1 then
      found = redis.call('HMGET', room.prev, unpack(missing))
      for n, id in ipairs(missing) do
        if found[n] then room.old[id] = found[n] end
      end
    end
  end
end
local out = {}
for n, message in ipairs(messages) do
  local room, id = message.room, message.id
  local change = message.of and (room.gone[message.of] or redis.call('HGET', room.changes, message.of))
  if room.old[id] then
    -- Written again, so that a wait for replicas waits for its first place too.
    room.notes[#room.notes + 1] = id
    room.notes[#room.notes + 1] = room.old[id]
    out[n] = '=' .. room.old[id]
  elseif room.first[id] then
    message.as = room.first[id]
  elseif ARGV[6] == '1' and not room.known then
    out[n] = 'u'
  elseif change and string.byte(change) == 45 then
    out[n] = 'g'
  else
    room.first[id] = message
    message.is_new = true
    if string.byte(message.body) ~= 80 then
      room.count = room.count + 1
      message.place = room.count
      if message.kind == 3 then room.gone[message.of] = '-' end
    end
  end
end
for _, room in ipairs(rooms) do
  if room.count > 0 then
    room.before = redis.call('HINCRBY', room.meta, 's', room.count) - room.count
    if not room.begun then redis.call('HSETNX', room.meta, 'e' .. epoch, room.before + 1) end
    if not room.known then room.mark = true end
  end
end
local boxes, order = {}, {}
for n, message in ipairs(messages) do
  local room, body, kind = message.room, message.body, message.kind
  if message.as then
    out[n] = '=' .. message.as.value
  elseif message.is_new then
    local seq = message.place and room.before + message.place or 0
    -- Fewer than 15 digits each, so that Lua writes them out.
    local value = seq .. ':' .. epoch .. ':' .. message.ts
    if seq > 0 then
      if message.place == room.count then
        redis.call('XADD', room.hist, 'MAXLEN', '~', room.length, seq .. '-' .. epoch, 'b', body)
      else
        redis.call('XADD', room.hist, seq .. '-' .. epoch, 'b', body)
      end
      if kind == 2 then redis.call('HSET', room.changes, message.of, seq) end
      if kind == 3 then redis.call('HSET', room.changes, message.of, -seq) end
      if kind == 2 or kind == 3 then
        room.mark = true
        if redis.call('HLEN', room.changes) > 4 * room.length then
          for _, at in ipairs(redis.call('HKEYS', room.changes)) do
            if tonumber(at) + 2 * room.length < seq then redis.call('HDEL', room.changes, at) end
          end
        end
      end
      if feed_max > 0 then
        local fed = epoch .. '-' .. redis.call('INCR', KEYS[3])
        redis.call('XADD', KEYS[2], fed, 'r', string.sub(room.name, 3), 'o', seq, 'e', epoch, 'b', body)
        value = value .. ':' .. fed
      end
      if room.leaves then
        local left = epoch .. '-' .. redis.call('INCR', KEYS[5])
        redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[10], left, 'r', string.sub(room.name, 3), 'o', seq, 'e', epoch, 'b', body)
      end
    end
    message.value = value
    room.notes[#room.notes + 1] = message.id
    room.notes[#room.notes + 1] = value
    out[n] = '+' .. value
    if room.who then
      local box = boxes[room.who]
      if not box then
        box = {}
        boxes[room.who] = box
        order[#order + 1] = room.who
      end
      box[#box + 1] = 'e' .. struct.pack('>I4', #room.name + 16 + #body) .. room.name
        .. struct.pack('>I8I8', seq, tonumber(epoch)) .. body
    end
  end
end
for _, room in ipairs(rooms) do
  if #room.notes > 0 then
    redis.call('HSET', room.cur, unpack(room.notes))
    room.wrote = true
  end
end
for _, room in ipairs(rooms) do
  if room.wrote then
    if redis.call('PTTL', room.cur) < 0 then redis.call('PEXPIRE', room.cur, 2 * room.window) end
    if room.mark and room.meta_life > 0 then
      redis.call('PEXPIRE', room.meta, room.meta_life)
      redis.call('PEXPIRE', room.changes, room.meta_life)
    end
    if room.mark and room.hist_life > 0 then redis.call('PEXPIRE', room.hist, room.hist_life) end
  end
end
for _, who in ipairs(order) do
  local message, left, away = table.concat(boxes[who]), {}, false
  for node in string.gmatch(who, '[^,]+') do
    -- Nobody listens: that node is gone, or joins its rooms again when it is back.
    if redis.call(ARGV[8], ARGV[4] .. node, message) == 0 then away = true else left[#left + 1] = node end
  end
  if away then
    for _, room in ipairs(rooms) do
      if room.who == who then
        if #left > 0 then redis.call('HSET', room.meta, 'i', table.concat(left, ',')) else redis.call('HDEL', room.meta, 'i') end
      end
    end
  end
end
return out
